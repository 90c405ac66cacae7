// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// inboundMesh is a Service of one port, before which policies are put.
func inboundMesh(port, more string) string {
	return `
apiVersion: v1
kind: Service
metadata: {name: app, namespace: default}
spec: {selector: {app: app}, ports: [` + port + `]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: app, namespace: default}
spec: {address: 127.0.0.1, labels: {app: app}}
---
` + more
}

// inboundListeners translates for the workload of inboundMesh.
func inboundListeners(t *testing.T, yaml string, inbound ...string) ([]*listenerv3.Listener, string) {
	t.Helper()
	r, problems := Translate(load(t, yaml), Options{Labels: map[string]string{"app": "app"}, Inbound: inbound, Identity: true})
	if r == nil {
		return nil, describe(problems)
	}
	return r.Listeners, describe(problems)
}

// inWords is what a chain matches and does, in words.
func inWords(c *listenerv3.FilterChain) string {
	s := c.FilterChainMatch.TransportProtocol
	if alpn := c.FilterChainMatch.ApplicationProtocols; len(alpn) > 0 {
		s += "[" + strings.Join(alpn, " ") + "]"
	}
	s += " "
	if c.TransportSocket != nil {
		s += "mTLS+"
	}
	last := c.Filters[len(c.Filters)-1].Name
	return s + map[string]string{filterHCM: "HTTP", filterTCPProxy: "TCP"}[last]
}

func TestInboundChains(t *testing.T) {
	const all = "tls[istio istio-peer-exchange istio-http/1.0 istio-http/1.1 istio-h2] "
	const http = "tls[istio-http/1.0 istio-http/1.1 istio-h2] "
	ports := map[string]string{
		"HTTP": "{name: http, port: 80, targetPort: 8080}", "gRPC": "{name: grpc, port: 80, targetPort: 8080}",
		"TCP": "{name: tcp, port: 80, targetPort: 8080}", "TLS": "{name: https, port: 80, targetPort: 8080}",
		"auto": "{name: x, port: 80, targetPort: 8080}", "of another port": "{name: http, port: 8080, targetPort: 1}",
	}
	auto := map[string]string{
		"PERMISSIVE": http + "mTLS+HTTP, raw_buffer[http/1.1 h2c] HTTP, tls[istio-peer-exchange istio] mTLS+TCP, raw_buffer TCP, tls TCP; tls+http",
		"STRICT":     http + "mTLS+HTTP, tls mTLS+TCP; tls",
		"DISABLE":    "raw_buffer[http/1.1 h2c] HTTP, raw_buffer TCP; http",
	}
	ofHTTP := map[string]string{
		"PERMISSIVE": all + "mTLS+HTTP, raw_buffer HTTP; tls", "STRICT": "tls mTLS+HTTP; tls", "DISABLE": "raw_buffer HTTP; ",
	}
	ofTCP := map[string]string{
		"PERMISSIVE": all + "mTLS+TCP, tls TCP, raw_buffer TCP; tls", "STRICT": "tls mTLS+TCP; tls", "DISABLE": "raw_buffer TCP; ",
	}
	for name, want := range map[string]map[string]string{"HTTP": ofHTTP, "gRPC": ofHTTP, "TCP": ofTCP, "TLS": ofTCP, "auto": auto, "of another port": auto} {
		for mode, want := range want {
			t.Run(name+" "+mode, func(t *testing.T) {
				ls, problems := inboundListeners(t, inboundMesh(ports[name], `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: `+mode+`}}
`), "127.0.0.1:18080=127.0.0.1:8080")
				if len(ls) != 1 {
					t.Fatalf("%d listeners: %s", len(ls), problems)
				}
				var chains, inspectors []string
				for _, c := range ls[0].FilterChains {
					chains = append(chains, inWords(c))
				}
				for _, f := range ls[0].ListenerFilters {
					inspectors = append(inspectors, strings.TrimSuffix(f.Name[strings.LastIndex(f.Name, ".")+1:], "_inspector"))
				}
				if got := strings.Join(chains, ", ") + "; " + strings.Join(inspectors, "+"); got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			})
		}
	}
}

func TestInboundFlag(t *testing.T) {
	mesh := inboundMesh("{name: http, port: 80}", "")
	for _, c := range []struct {
		inbound []string
		want    string // of the problem
	}{
		{[]string{"127.0.0.1:18080"}, "is not ADDRESS:PORT=APPADDRESS:APPPORT"},
		{[]string{"x:1=127.0.0.1:2"}, "is not an IP address"},
		{[]string{"127.0.0.1:1=x:2"}, "is not an IP address"},
		{[]string{"127.0.0.1:1=127.0.0.1:0"}, "can't be 0"},
		{[]string{"127.0.0.1:1=unix://relative"}, "unix:///PATH"},
		{[]string{"127.0.0.1:0=unix:///a"}, "has to be a port"},
		{[]string{":8080=127.0.0.1:8080"}, "can't listen where the workload does"},
		{[]string{"127.0.0.1:1=127.0.0.1:80", "127.0.0.1:2=127.0.0.1:80"}, "is at 127.0.0.1:1 already"},
		{[]string{"127.0.0.1:1=127.0.0.1:80", "0.0.0.0:1=127.0.0.1:81"}, "listener 127.0.0.1_1 is there already"},
	} {
		ls, problems := inboundListeners(t, mesh, c.inbound...)
		if ls != nil || !strings.Contains(problems, "--inbound: ") || !strings.Contains(problems, c.want) {
			t.Errorf("%q: %d listeners and %q, want %q", c.inbound, len(ls), problems, c.want)
		}
	}
	if ls, problems := inboundListeners(t, mesh, "127.0.0.1:0=:80", "127.0.0.1:0=:81"); len(ls) != 2 || ls[0].Name == ls[1].Name {
		t.Errorf("two ports that the system chooses: %v, %s", ls, problems)
	}
	for _, good := range []string{"127.0.0.1:0=localhost:80", ":1=:80", "[::1]:80=127.0.0.1:80", "127.0.0.2:80=127.0.0.1:80", "127.0.0.1:1=unix:///a"} {
		if ls, problems := inboundListeners(t, mesh, good); len(ls) != 1 {
			t.Errorf("%q: %s", good, problems)
		}
	}
}

// TestPeerAuthentication: which mode holds at port 8080, and at 8081.
func TestPeerAuthentication(t *testing.T) {
	one := func(name, namespace, spec string) string {
		return fmt.Sprintf("---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", name, namespace, spec)
	}
	const (
		strict, permissive, disable, unset = "{mtls: {mode: STRICT}}", "{mtls: {mode: PERMISSIVE}}", "{mtls: {mode: DISABLE}}", "{mtls: {mode: UNSET}}"
		selector                           = "selector: {matchLabels: {app: app}}"
	)
	for _, c := range []struct {
		name, yaml, want, problem string
	}{
		{"nothing is said", "", "PERMISSIVE PERMISSIVE", ""},
		{"mesh", one("a", "istio-system", strict), "STRICT STRICT", ""},
		{"namespace before mesh", one("a", "istio-system", strict) + one("b", "default", disable), "DISABLE DISABLE", ""},
		{"mesh declared last", one("b", "default", disable) + one("a", "istio-system", strict), "DISABLE DISABLE", ""},
		{"unset inherits", one("a", "istio-system", strict) + one("b", "default", unset), "STRICT STRICT", ""},
		{"empty inherits", one("a", "istio-system", strict) + one("b", "default", "{}"), "STRICT STRICT", ""},
		{"mesh unset", one("a", "istio-system", unset), "PERMISSIVE PERMISSIVE", ""},
		{"another namespace", one("a", "other", strict), "PERMISSIVE PERMISSIVE", ""},
		{"workload", one("a", "default", strict) + one("b", "default", "{"+selector+", mtls: {mode: DISABLE}}"), "DISABLE DISABLE", ""},
		{"another workload", one("a", "default", "{selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}}"), "PERMISSIVE PERMISSIVE", ""},
		{"port", one("a", "default", "{"+selector+", mtls: {mode: STRICT}, portLevelMtls: {8081: {mode: DISABLE}}}"), "STRICT DISABLE", ""},
		{"port inherits", one("a", "istio-system", strict) + one("b", "default", "{"+selector+", portLevelMtls: {8081: {mode: UNSET}}}"), "STRICT STRICT", ""},
		{"the first of two", one("a", "default", strict) + one("b", "default", permissive), "STRICT STRICT", "PeerAuthentication/default/b: is ignored: PeerAuthentication/default/a"},
		{"the first of two workloads", one("a", "default", "{"+selector+", mtls: {mode: STRICT}}") + one("b", "default", "{"+selector+", portLevelMtls: {8081: {mode: DISABLE}}}"),
			"STRICT STRICT", "came first"},
		{"selector in the root namespace", one("a", "istio-system", "{"+selector+", mtls: {mode: STRICT}}"), "PERMISSIVE PERMISSIVE", "spec.selector: a selector has no effect in the root namespace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ls, problems := inboundListeners(t, inboundMesh("{name: http, port: 80}", c.yaml), "127.0.0.1:1=:8080", "127.0.0.1:2=:8081")
			if len(ls) != 2 {
				t.Fatal(problems)
			}
			var got []string
			for _, l := range ls {
				first, last := l.FilterChains[0], l.FilterChains[len(l.FilterChains)-1]
				switch {
				case first.TransportSocket == nil:
					got = append(got, "DISABLE")
				case last.TransportSocket == nil:
					got = append(got, "PERMISSIVE")
				default:
					got = append(got, "STRICT")
				}
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
			if c.problem == "" && problems != "" || !strings.Contains(problems, c.problem) {
				t.Errorf("said %q, want %q", problems, c.problem)
			}
		})
	}
}

// TestInboundTLS: what the mesh's settings change of the socket.
func TestInboundTLS(t *testing.T) {
	o := Options{MeshConfig: meshConfig("inbound.meshconfig")}.withMesh().withDefaults()
	context := &tlsv3.DownstreamTlsContext{}
	if err := (&translator{o: &o}).inboundTLS(false).GetTypedConfig().UnmarshalTo(context); err != nil {
		t.Fatal(err)
	}
	common := context.CommonTlsContext
	if common.TlsParams.TlsMinimumProtocolVersion != tlsv3.TlsParameters_TLSv1_3 {
		t.Errorf("TLS from %s", common.TlsParams.TlsMinimumProtocolVersion)
	}
	var prefixes []string
	//lint:ignore SA1019 istiod sets it
	for _, m := range common.GetCombinedValidationContext().DefaultValidationContext.MatchSubjectAltNames {
		prefixes = append(prefixes, m.GetPrefix())
	}
	if got := strings.Join(prefixes, " "); got != "spiffe://shop.example/ spiffe://old.example/" {
		t.Errorf("identities of %s", got)
	}
	if !context.RequireClientCertificate.GetValue() || common.AlpnProtocols[0] != "istio-peer-exchange" {
		t.Errorf("context is %v", context)
	}
}

// TestInboundWithoutCertificate: mutual TLS that is demanded and can't be had refuses the
// configuration; where it may be had, plaintext is said to be all.
func TestInboundWithoutCertificate(t *testing.T) {
	for mode, want := range map[string]string{
		"STRICT": "--inbound: 127.0.0.1:1: PeerAuthentication demands mutual TLS", "PERMISSIVE": "warning: --inbound: the proxy has no certificate of the mesh", "DISABLE": "",
	} {
		r, problems := Translate(load(t, inboundMesh("{name: http, port: 80}", `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: `+mode+`}}
`)), Options{Labels: map[string]string{"app": "app"}, Inbound: []string{"127.0.0.1:1=:80"}})
		if said := describe(problems); !strings.Contains(said, want) || want == "" && said != "" {
			t.Errorf("%s: said %q, want %q", mode, said, want)
		}
		if (r == nil) != (mode == "STRICT") {
			t.Errorf("%s: refused: %t", mode, r == nil)
		}
		if r != nil && r.Listeners[0].FilterChains[0].TransportSocket != nil {
			t.Errorf("%s: a chain has TLS", mode)
		}
	}
}
