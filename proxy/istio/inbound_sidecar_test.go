// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"strings"
	"testing"
)

// TestSidecarIngress: what entries of spec.ingress open, and what they are refused for.
func TestSidecarIngress(t *testing.T) {
	for _, c := range []struct {
		entry string
		want  string // listener, protocol's chains in words, where the cluster sends
		said  string
	}{
		{"{port: {number: 9080, name: http, protocol: HTTP}, bind: 127.0.0.2, defaultEndpoint: 127.0.0.1:8080}",
			"127.0.0.2_9080 raw_buffer HTTP 127.0.0.1:8080", ""},
		{"{port: {number: 9080, name: tcp, protocol: TCP}, captureMode: NONE, defaultEndpoint: 0.0.0.0:8080}",
			"0.0.0.0_9080 raw_buffer TCP 127.0.0.1:8080", ""},
		{"{port: {number: 9080, name: http, protocol: GRPC}, bind: 0.0.0.0, defaultEndpoint: 'unix:///run/app.sock'}",
			"0.0.0.0_9080 raw_buffer HTTP /run/app.sock", ""},
		{"{port: {number: 9080, name: http, protocol: HTTP}, bind: '::1', defaultEndpoint: '[::]:8080'}",
			"::1_9080 raw_buffer HTTP ::1:8080", ""},
		{"{port: {number: 9080, name: http, protocol: HTTP}, defaultEndpoint: 127.0.0.1:8080}", "",
			"warning: -:23: Sidecar/default/app: spec.ingress[0]: not supported yet by this build, ignored: nothing captures"},
		{"{port: {number: 9080, name: http, protocol: HTTP}, bind: 10.0.0.1, defaultEndpoint: 127.0.0.1:8080}", "", "nothing captures traffic"},
		{"{port: {number: 9080, name: http, protocol: HTTP}, bind: 127.0.0.1}", "refused", "spec.ingress[0].defaultEndpoint: nothing says where connections go"},
		{"{port: {number: 9080, name: http, protocol: HTTP}, bind: 0.0.0.0, defaultEndpoint: 127.0.0.1:9080}", "refused", "can't listen where the workload does"},
		{"{port: {number: 8443, name: https, protocol: HTTPS}, bind: 127.0.0.1, defaultEndpoint: 127.0.0.1:8080, tls: {mode: SIMPLE, privateKey: /k, serverCertificate: /c}}",
			"refused", "spec.ingress[0].tls: TLS other than the mesh's own"},
		{"{port: {number: 15080, name: http, protocol: HTTP}, bind: 127.0.0.1, defaultEndpoint: 127.0.0.1:8080}", "refused", "spec.ingress[0]: 127.0.0.1:15080: listener 127.0.0.1_15080 is there already"},
	} {
		yaml := inboundMesh("{name: tcp, port: 80, targetPort: 9080}", `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: DISABLE}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: app, namespace: default}
spec:
  inboundConnectionPool: {tcp: {maxConnections: 3}}
  ingress:
  - `+c.entry+"\n")
		r, problems := Translate(load(t, yaml), Options{HTTPAddr: "127.0.0.1:15080", Labels: map[string]string{"app": "app"}})
		got := "refused"
		if r != nil {
			got = ""
			for _, l := range r.Listeners {
				if l.TrafficDirection.String() != "INBOUND" {
					continue
				}
				cluster := r.clusterOf(fmt.Sprintf("inbound|%d||", l.Address.GetSocketAddress().GetPortValue()))
				a := cluster.LoadAssignment.Endpoints[0].LbEndpoints[0].GetEndpoint().Address
				at := a.GetPipe().GetPath()
				if s := a.GetSocketAddress(); s != nil {
					at = fmt.Sprintf("%s:%d", s.Address, s.GetPortValue())
				}
				got = l.Name + " " + inWords(l.FilterChains[0]) + " " + at
				if n := cluster.CircuitBreakers.Thresholds[0].MaxConnections.GetValue(); n != 3 {
					t.Errorf("%s: %d connections", c.entry, n)
				}
			}
		}
		if said := describe(problems); got != c.want || !strings.Contains(said, c.said) {
			t.Errorf("%s:\ngot %q and %q\nwant %q and %q", c.entry, got, said, c.want, c.said)
		}
	}
}
