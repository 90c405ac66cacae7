// SPDX-License-Identifier: Apache-2.0

package peer

import (
	stdtls "crypto/tls"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"text/template"

	"pillion/bench/mesh"
	"pillion/bench/pki"
	"pillion/bench/proc"
)

// facts is what the configuration templates can use.
type facts struct {
	Job
	// Listen are the peer's own addresses.
	Listen []string
	// Port, MatchField, MatchValue and Limit are those of package mesh.
	Port                   int
	MatchField, MatchValue string
	Limit                  int
	// TrustDomain and Suite, by its name, are those of package pki.
	TrustDomain, Suite string
}

// StreamModule is the file of nginx's stream module where it isn't part of the
// program; "" elsewhere.
func (f facts) StreamModule() string {
	const debian = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(debian); err != nil {
		return ""
	}
	return debian
}

// Keep is how many idle connections to an origin a peer may keep.
func (f facts) Keep() int { return max(64, f.Connections) }

// clusterFacts describes one Envoy cluster.
type clusterFacts struct {
	facts
	mesh.Service
	Subset string
	Ends   []string
}

// render writes a template's result for a job to a file.
func render(file, text string, job Job, listen ...string) error {
	t, err := template.New("config").Funcs(template.FuncMap{
		"host":  func(addr string) (string, error) { h, _, err := net.SplitHostPort(addr); return h, err },
		"port":  func(addr string) (string, error) { _, p, err := net.SplitHostPort(addr); return p, err },
		"comma": func(addr string) string { return strings.Replace(addr, ":", ",", 1) },
		"last": func(subsets bool) int {
			if subsets {
				return 1
			}
			return 0
		},
		"underscored": func(s string) string { return strings.ReplaceAll(s, "-", "_") },
		"add": func(n ...int) (sum int) {
			for _, x := range n {
				sum += x
			}
			return sum
		},
		"cluster": func(f facts, s mesh.Service, subset string, origins ...int) clusterFacts {
			c := clusterFacts{facts: f, Service: s, Subset: subset}
			for _, i := range origins {
				c.Ends = append(c.Ends, f.Origins[i])
			}
			return c
		},
	}).Parse(text)
	if err != nil {
		return fmt.Errorf("template of %s: %w", file, err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = t.Execute(f, facts{
		Job: job, Listen: listen, Port: mesh.Port,
		MatchField: mesh.MatchField, MatchValue: mesh.MatchValue, Limit: mesh.MaxConnections,
		TrustDomain: pki.TrustDomain, Suite: stdtls.CipherSuiteName(pki.Suite),
	})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// listenAddrs returns n different loopback addresses.
func listenAddrs(n int) ([]string, error) {
	ports, err := proc.FreePorts(n)
	if err != nil {
		return nil, err
	}
	out := make([]string, n)
	for i, port := range ports {
		out[i] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	return out, nil
}

// haproxyVersion shortens "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://…".
func haproxyVersion(line string) string {
	v, _, _ := strings.Cut(line, " - ")
	f := strings.Fields(v)
	if len(f) >= 3 {
		return "HAProxy " + f[2]
	}
	return line
}

// envoyVersion shortens "/path/envoy  version: HASH/1.40.0/Clean/RELEASE/BoringSSL".
func envoyVersion(line string) string {
	if m := regexp.MustCompile(`version: [0-9a-f]+/([^/]+)/`).FindStringSubmatch(line); m != nil {
		return "Envoy " + m[1]
	}
	return line
}
