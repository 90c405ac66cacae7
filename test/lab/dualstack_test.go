// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"

	"pillion/test/need"
)

// plainReviews lets requests without TLS come to reviews.
const plainReviews = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews, namespace: default}
spec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: PERMISSIVE}}
`

// TestDualStackPod: Istio's own rules send what comes to a pod over IPv6 to its proxy, as
// over IPv4, and the application is reached from the address that they let pass: through a
// real Envoy and through us.
func TestDualStackPod(t *testing.T) {
	t.Parallel()
	need.IPv6(t)
	pods := []PodSpec{
		{Namespace: "default", Name: "reviews-v1", Addr: netip.MustParseAddr("10.244.0.11"), Addr6: netip.MustParseAddr("fd00:10:244::b"), Redirect: true},
		{Namespace: "default", Name: "legacy", Addr: netip.MustParseAddr("10.244.0.20"), Addr6: netip.MustParseAddr("fd00:10:244::14")},
	}
	n, app, agent := StartNetwork(t, pods), BuildApp(t), NewEnvoyAgent(t)
	l := Start(t, Options{Flavour: Safe, Host: n.Node, Env: []string{"ISTIO_DUAL_STACK=true"}, Objects: append(Bookinfo(), plainReviews)})
	pod := n.Pod("reviews-v1")
	// 9080 is a port of the service, nobody names 9999.
	for _, port := range []string{"9080", "9999"} {
		pod.Run(Command{Path: app, Args: []string{"-name", "of " + port, "-listen", ":" + port}})
	}
	pod.WaitListening(9080)
	pod.WaitListening(9999)
	const config = `{"proxyMetadata": {"ISTIO_DUAL_STACK": "true"}}`
	binary := Published(t, binaries.Static(t))
	// Ours is first: an Envoy would keep the ports a moment longer than its agent lives.
	for _, who := range []string{"ours", "Envoy"} {
		var proxy *Running
		if who == "ours" {
			c := pod.Sidecar(l, config)
			c.Path, c.Args = binary, append(c.Args, "--root", c.Dir)
			proxy = pod.Run(c)
		} else {
			proxy = agent.Start(l, pod, config)
		}
		l.WaitInStep(pod)
		for to, from := range map[string]string{
			"10.244.0.11:9080": "127.0.0.6", "[fd00:10:244::b]:9080": "::6",
			"10.244.0.11:9999": "127.0.0.6", "[fd00:10:244::b]:9999": "::6",
		} {
			code, body, err := n.Pod("legacy").Get(app, 0, "http://"+to+"/", "")
			var a struct{ App, Peer string }
			if err == nil {
				err = json.Unmarshal([]byte(body), &a)
			}
			peer, _, _ := net.SplitHostPort(a.Peer)
			if err != nil || code != 200 || peer != from || !strings.HasSuffix(to, strings.TrimPrefix(a.App, "of ")) {
				t.Errorf("%s: %s answers %d %q, %v, want an application that is asked by %s", who, to, code, body, err, from)
			}
		}
		proxy.Kill()
	}
}
