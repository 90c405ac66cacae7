// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Scrape says where the application's own metrics are.
type Scrape struct{ Targets []Target }

// Target is a page of metrics of the application.
type Target struct {
	Port int
	Path string
}

// reservedPorts are the proxy's own: their pages are merged already, or are none
// of metrics.
var reservedPorts = map[int]string{
	15000: "the admin endpoint", 15001: "captured outbound traffic", 15004: "istiod's debug pages", 15006: "captured inbound traffic",
	15008: "tunnels", 15020: "the merged metrics themselves", 15021: "probes", 15053: "DNS", 15090: "the proxy's metrics",
}

// parseScrape reads ISTIO_PROMETHEUS_ANNOTATIONS: what stood in the pod's
// annotations prometheus.io/*. nil: the application isn't to be asked.
func parseScrape(text string, own Ports) (*Scrape, error) {
	var given struct {
		Scrape, Path, Port string
		Targets            []struct{ Port, Path string }
	}
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		return nil, fmt.Errorf("is no JSON object of texts: %s", err)
	}
	if given.Scrape == "false" {
		return nil, nil
	}
	if len(given.Targets) == 0 {
		given.Targets = append(given.Targets, struct{ Port, Path string }{orDefault(given.Port, "80"), given.Path})
	}
	const most = 64
	if len(given.Targets) > most {
		return nil, fmt.Errorf("has %d targets, more than %d", len(given.Targets), most)
	}
	s := &Scrape{}
	for _, t := range given.Targets {
		n, err := strconv.Atoi(t.Port)
		if err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("has the target port %q, which is none", t.Port)
		}
		what := reservedPorts[n]
		switch n {
		case own.Status:
			what = reservedPorts[15020]
		case own.Probe:
			what = reservedPorts[15021]
		case own.Metrics:
			what = reservedPorts[15090]
		case own.Admin:
			what = reservedPorts[15000]
		}
		if what != "" {
			return nil, fmt.Errorf("has the target port %d, which is the proxy's: %s", n, what)
		}
		path := orDefault(t.Path, "/metrics")
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		s.Targets = append(s.Targets, Target{n, path})
	}
	return s, nil
}

// scrape reads it for a sidecar. A gateway's ports are open to the world, so
// that it merges nothing.
func (r *reader) scrape(p *Pod) *Scrape {
	text := r.text("ISTIO_PROMETHEUS_ANNOTATIONS", "")
	if text == "" || p.Role != Sidecar {
		return nil
	}
	s, err := parseScrape(text, p.Ports)
	if err != nil {
		r.refuse("ISTIO_PROMETHEUS_ANNOTATIONS", text, err.Error(),
			"the webhook makes it of the pod's annotations prometheus.io/port and path and prometheus.istio.io/scrape-targets: name ports of the application there")
	}
	return s
}
