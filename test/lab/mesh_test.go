// SPDX-License-Identifier: Apache-2.0

package lab

import "testing"

// TestBookinfoBesideEnvoy: the lab's mesh is one that a real Envoy with Istio's
// own agent makes work, through iptables and under STRICT. What another proxy
// does in these pods can then be held against it.
func TestBookinfoBesideEnvoy(t *testing.T) {
	t.Parallel()
	n := StartNetwork(t, BookinfoPods())
	l := Start(t, Options{Flavour: Safe, Host: n.Node, Objects: Bookinfo()})
	app := BuildApp(t)
	StartBookinfoApps(t, n, app)
	envoy := NewEnvoyAgent(t)
	var pods []*Pod
	for _, spec := range BookinfoPods() {
		if spec.Name != "legacy" {
			pods = append(pods, n.Pod(spec.Name))
			envoy.Start(l, n.Pod(spec.Name))
		}
	}
	l.WaitInStep(pods...)
	CheckBookinfo(t, n, app)
}
