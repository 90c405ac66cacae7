// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pillion/proxy/xds"
	"pillion/test/captures"
	"pillion/test/need"
)

// responses returns what a real istiod sent to a node, in the order in which it came.
func responses(t *testing.T, node string) []*xds.Update {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(need.Captures(t), node, "*.pb"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there is no capture of %s (%v)", node, err)
	}
	slices.Sort(files)
	var out []*xds.Update
	for _, f := range files {
		u := &xds.Update{Version: "captured"}
		for _, a := range captures.Read(t, f) {
			name, err := Name(a.GetTypeUrl(), a.GetValue())
			if err != nil {
				t.Fatal(err)
			}
			u.TypeURL = a.GetTypeUrl()
			u.Resources = append(u.Resources, xds.Resource{Name: name, Body: a.GetValue()})
		}
		if u.TypeURL != "" {
			out = append(out, u)
		}
	}
	return out
}

// captureRig is a rig that has the secrets that the capture doesn't bring.
func captureRig(t *testing.T) *rig {
	r := newRig(t)
	for _, name := range []string{"kubernetes://bookinfo-cert", "kubernetes://mutual-cert"} {
		_ = r.Apply(updateOf(testSecret(t, name)))
	}
	ca := testSecret(t, "kubernetes://mutual-cert-cacert")
	_ = r.Apply(updateOf(rootsOf(ca)))
	return r
}

// TestCaptures plays what a real istiod sent: each resource is taken, and neither the
// order in which they come nor a repetition makes a difference.
func TestCaptures(t *testing.T) {
	dirs, err := os.ReadDir(need.Captures(t))
	if err != nil {
		t.Fatal(err)
	}
	played := 0
	for _, d := range dirs {
		if !strings.HasPrefix(d.Name(), "full-") {
			continue
		}
		played++
		t.Run(d.Name(), func(t *testing.T) {
			list := responses(t, d.Name())
			once := captureRig(t)
			for _, u := range list {
				if err := once.Apply(u); err != nil {
					t.Errorf("%s: %v", u.TypeURL, err)
				}
			}
			want := once.state()
			if p := once.Problems(); len(p) != 0 {
				t.Errorf("problems: %q", p)
			}
			if w := once.WaitingFor(); len(w) != 0 {
				t.Errorf("waits for %q", w)
			}
			once.done()
			for _, u := range list { // after a reconnection istiod sends everything again
				if err := once.Apply(u); err != nil {
					t.Error(err)
				}
			}
			if got := once.done(); got != "" {
				t.Errorf("a repetition does %q", got)
			}
			for turn := range len(list) {
				r := captureRig(t)
				for i := range list {
					if err := r.Apply(list[(i+turn)%len(list)]); err != nil {
						t.Errorf("turn %d: %v", turn, err)
					}
				}
				if got := r.state(); got != want {
					t.Errorf("turn %d ends with\n%s\nnot\n%s", turn, got, want)
				}
			}
			one := captureRig(t)
			for _, u := range list {
				for _, res := range u.Resources {
					if err := one.Apply(&xds.Update{TypeURL: u.TypeURL, Version: u.Version, Resources: []xds.Resource{res}}); err != nil {
						t.Error(err)
					}
				}
			}
			if got := one.state(); got != want {
				t.Errorf("one by one it ends with\n%s\nnot\n%s", got, want)
			}
		})
	}
	if played == 0 {
		t.Error("there is no capture")
	}
}

// TestKitchen holds that what can't be served of a mesh with everything turned on is
// refused by name, and the rest taken.
func TestKitchen(t *testing.T) {
	for _, node := range []string{"kitchen-productpage-v1-delta", "kitchen-ingressgateway-delta"} {
		r := captureRig(t)
		total, bad := 0, 0
		for _, u := range responses(t, node) {
			total += len(u.Resources)
			if err := r.Apply(u); err != nil {
				for line := range strings.Lines(err.Error()) {
					bad++
					if !strings.Contains(line, ": ") {
						t.Errorf("%s: %q names no field", node, line)
					}
				}
			}
		}
		served := 0
		for _, st := range r.Status() {
			for _, res := range st.Resources {
				if res.Active != nil {
					served++
				}
			}
		}
		if bad == 0 || served < total/2 {
			t.Errorf("%s: of %d resources %d are served, %d refused", node, total, served, bad)
		}
		t.Log(fmt.Sprintf("%s: of %d resources %d are served, %d refused", node, total, served, bad))
	}
}
