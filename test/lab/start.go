// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"os"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
)

// nodeAddr is where istiod is reached in a Network.
var nodeAddr = netip.MustParseAddr("10.244.0.1")

// Rig is a Lab for tests: its methods end the test where those of Lab return an error.
type Rig struct {
	*Lab
	t testing.TB
}

// Start starts a lab of the test's own, on free ports, and ends it with the
// test. It needs what `make lab` builds.
func Start(t testing.TB, o Options) *Rig {
	t.Helper()
	program, err := Program(need.Root(t), "pilot-discovery")
	if err != nil {
		t.Fatal(err)
	}
	need.Lab(t, program)
	ports := ClusterPorts(nodeAddr, 0)
	if o.Host == nil {
		ports = Ports{XDS: rig.FreeAddr(t), Secure: rig.FreeAddr(t), HTTP: rig.FreeAddr(t), Monitoring: rig.FreeAddr(t), Webhooks: rig.FreeAddr(t)}
	}
	l, err := Open(program, TempDir(t), ports, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if t.Failed() {
			t.Logf("istiod printed:\n%s", tail(l.LogFile()))
		}
	})
	return &Rig{l, t}
}

// Apply makes or changes objects.
func (r *Rig) Apply(yaml string) {
	r.t.Helper()
	if err := r.Kube.Apply(yaml); err != nil {
		r.t.Fatal(err)
	}
}

// Delete removes objects.
func (r *Rig) Delete(yaml string) {
	r.t.Helper()
	if err := r.Kube.Delete(yaml); err != nil {
		r.t.Fatal(err)
	}
}

// Token returns the path of a file with a token of a service account.
func (r *Rig) Token(ns, account string) string {
	r.t.Helper()
	path, err := r.Lab.Token(ns, account)
	if err != nil {
		r.t.Fatal(err)
	}
	return path
}

// Restart ends istiod, if it still runs, and starts it on the same ports.
func (r *Rig) Restart() {
	r.t.Helper()
	if err := r.Lab.Restart(); err != nil {
		r.t.Fatal(err)
	}
}

// Syncz returns what istiod knows of the proxies that are connected.
func (r *Rig) Syncz() map[string]SyncStatus {
	r.t.Helper()
	all, err := r.Lab.Syncz()
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// Log returns what istiod printed.
func (r *Rig) Log() string {
	r.t.Helper()
	text, err := os.ReadFile(r.LogFile())
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}
