// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
)

// Probes are those of the pod's other containers: the webhook leads them here,
// because the kubelet can't speak mutual TLS to the application's ports.
type Probes struct {
	ByPath map[string]*Prober
	// Host is where the application is reached: the pod's address, as the kubelet
	// does, or localhost.
	Host string
	// Source is the address that probes come from: traffic rules let it pass to
	// the application.
	Source netip.Addr
	// KeepAlive keeps connections, HTTP2 allows HTTP/2 where TLS settles it.
	KeepAlive, HTTP2 bool
	// StatusPort in a probe's Host is replaced by the application's.
	StatusPort int
}

// Prober is one probe or lifecycle hook, in the form of Kubernetes. One of
// HTTPGet, TCPSocket and GRPC is set.
type Prober struct {
	HTTPGet        *HTTPGet   `json:"httpGet"`
	TCPSocket      *TCPSocket `json:"tcpSocket"`
	GRPC           *GRPC      `json:"grpc"`
	TimeoutSeconds int32      `json:"timeoutSeconds"`
}

// HTTPGet asks for a path; any status from 200 to 399 is well.
type HTTPGet struct {
	Path        string   `json:"path"`
	Port        portText `json:"port"`
	Scheme      string   `json:"scheme"`
	HTTPHeaders []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"httpHeaders"`
}

// TCPSocket opens a connection.
type TCPSocket struct {
	Port portText `json:"port"`
}

// GRPC asks the standard health service.
type GRPC struct {
	Port    portText `json:"port"`
	Service *string  `json:"service"`
}

// portText is a port that the webhook has looked up: names are no use here.
type portText int

// UnmarshalJSON takes a number from 1 to 65535.
func (p *portText) UnmarshalJSON(b []byte) error {
	n, err := strconv.Atoi(string(b))
	if err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("the port %s is not a number from 1 to 65535", b)
	}
	*p = portText(n)
	return nil
}

// probePath is the form of the paths that the webhook makes.
var probePath = regexp.MustCompile(`^/(app-health|app-lifecycle)/[^/]+/(livez|readyz|startupz|prestopz|poststartz)$`)

const probersRemedy = "the webhook makes it of the containers' probes; see that the pod wasn't injected twice"

// parseProbers reads ISTIO_KUBE_APP_PROBERS.
func parseProbers(text string) (map[string]*Prober, error) {
	var out map[string]*Prober
	if err := json.NewDecoder(bytes.NewReader([]byte(text))).Decode(&out); err != nil {
		return nil, fmt.Errorf("is no JSON object of probes: %s", err)
	}
	for _, path := range sortedKeys(out) {
		if err := out[path].check(path); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *Prober) check(path string) error {
	if !probePath.MatchString(path) {
		return fmt.Errorf("has the path %q, which is not of the form %s", path, probePath)
	}
	n := 0
	var port portText
	if p != nil {
		if p.HTTPGet != nil {
			n, port = n+1, p.HTTPGet.Port
		}
		if p.TCPSocket != nil {
			n, port = n+1, p.TCPSocket.Port
		}
		if p.GRPC != nil {
			n, port = n+1, p.GRPC.Port
		}
	}
	switch {
	case n != 1:
		return fmt.Errorf("has %d of httpGet, tcpSocket and grpc for %s, not one", n, path)
	case port == 0:
		return fmt.Errorf("has no port for %s", path)
	case p.TimeoutSeconds < 0:
		return fmt.Errorf("has a timeout below 0 for %s", path)
	}
	if s := p.HTTPGet; s != nil && s.Scheme != "" && s.Scheme != "HTTP" && s.Scheme != "HTTPS" {
		return fmt.Errorf("has the scheme %q for %s, which is neither HTTP nor HTTPS", s.Scheme, path)
	}
	return nil
}

func (r *reader) probes(p *Pod) Probes {
	out := Probes{
		Host:       "localhost",
		KeepAlive:  r.flag("ENABLE_PROBE_KEEPALIVE_CONNECTIONS", false),
		HTTP2:      r.flag("ISTIO_ENABLE_HTTP2_PROBING", true),
		Source:     netip.MustParseAddr("127.0.0.6"),
		StatusPort: p.Ports.Status,
	}
	if len(p.IPs) > 0 {
		a, err := netip.ParseAddr(p.IPs[0])
		if err == nil && a.Is6() {
			out.Source = netip.MustParseAddr("::6")
		}
		if !r.flag("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", false) {
			out.Host = p.IPs[0]
		}
	}
	text := r.text("ISTIO_KUBE_APP_PROBERS", "")
	if text == "" {
		return out
	}
	var err error
	if out.ByPath, err = parseProbers(text); err != nil {
		r.refuse("ISTIO_KUBE_APP_PROBERS", text, err.Error(), probersRemedy)
	}
	return out
}
