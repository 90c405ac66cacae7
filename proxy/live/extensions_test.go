// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/stats"
)

const (
	faultURL = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"
	rbacURL  = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
	wasmURL  = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
)

// discovered is a filter whose configuration comes by itself; more are further fields.
func discovered(name, url, more string) string {
	return fmt.Sprintf(`{"name": %q, "configDiscovery": {"configSource": {"ads": {}}, "typeUrls": [%q]%s}}`, name, url, more)
}

func faultWith(status int) string {
	return fmt.Sprintf(`{"@type": %q, "abort": {"httpStatus": %d, "percentage": {"numerator": 100}}}`, faultURL, status)
}

func extension(name, config string) *corev3.TypedExtensionConfig {
	return fill(&corev3.TypedExtensionConfig{}, `{"name": %q, "typedConfig": %s}`, name, config)
}

// wasmExtension has a type that isn't linked in.
func wasmExtension(name string) *corev3.TypedExtensionConfig {
	x := extension(name, faultWith(418))
	x.TypedConfig.TypeUrl = wasmURL
	return x
}

// answer is what the filters of a listener say to a request, 0 if they let it pass; -1 if
// the listener isn't served.
func (r *rig) answer(listener string) int {
	r.mu.Lock()
	l := r.serving[listener]
	r.mu.Unlock()
	if l == nil {
		return -1
	}
	h := l.Chains[0].HCM
	for _, f := range h.NoRouteChain.Request {
		ex := &http.Exchange{}
		if f.OnRequest(ex) == filter.Reply {
			if s := ex.LocalReply; s.Status == 500 && s.Err.Flag != http.FlagNoFilterConfig {
				r.t.Errorf("flags of the 500: %v", s.Err.Flag)
			}
			return ex.LocalReply.Status
		}
	}
	return 0
}

func (r *rig) answers(when string, want int) {
	r.t.Helper()
	if got := r.answer("l"); got != want {
		r.t.Errorf("%s: answered with %d, not %d", when, got, want)
	}
}

// TestExtensionWarming holds what a listener does until its filter's configuration comes.
func TestExtensionWarming(t *testing.T) {
	fallback := `, "defaultConfig": ` + faultWith(419)
	for _, c := range []struct {
		name, more                        string
		before, refused, deadline, arrive int
	}{
		{"nothing to serve instead", "", -1, -1, 500, 418},
		{"a default", fallback, -1, 419, 419, 418},
		{"a default at once", fallback + `, "applyDefaultConfigWithoutWarming": true`, 419, 419, 419, 418},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t)
				r.push(routesTo("80", "a=a"))
				r.push(httpListener("l", "10.0.0.9:80", "80", discovered("x", faultURL, c.more)))
				r.wants(ExtensionType, "x")
				r.push(routesTo("80", "a=a"))
				r.answers("before it comes", c.before)
				if c.before < 0 {
					if w := strings.Join(r.WaitingFor(), "; "); !strings.Contains(w, "no extension configuration x yet") {
						t.Errorf("waits for %q", w)
					}
				}
				if why := r.refused(wasmExtension("x")); !strings.Contains(why, "extension configuration x: typed_config: type") {
					t.Errorf("refused: %s", why)
				}
				r.answers("when it was refused", c.refused)
				pass(15 * time.Second)
				r.answers("after the deadline", c.deadline)
				r.push(extension("x", faultWith(418)))
				r.answers("when it comes", c.arrive)
				if p := r.Problems(); len(p) > 1 { // the clusters were never sent
					t.Errorf("problems: %q", p)
				}
			})
		})
	}
}

// TestExtensionUpdate holds that what is good takes effect, that what is bad doesn't, and
// that neither makes a new chain of which connections would be drained.
func TestExtensionUpdate(t *testing.T) {
	r := newRig(t)
	r.push(httpListener("l", "10.0.0.9:80", "80", discovered("x", faultURL, "")))
	r.push(routesTo("80", "a=a"))
	r.push(extension("x", faultWith(418)))
	r.answers("at first", 418)
	chain := r.serving["l"].Chains[0]
	r.push(extension("x", faultWith(420)))
	r.answers("after an update", 420)
	now := r.serving["l"].Chains[0]
	if now.Name != chain.Name || now.Gate != chain.Gate || now.Gate == [16]byte{} {
		t.Errorf("the chain is another one: %s/%x, before %s/%x", now.Name, now.Gate, chain.Name, chain.Gate)
	}
	if got := tableText(now.HCM.Routes.Load()); got != "80{a=a}" {
		t.Errorf("routes: %s", got)
	}
	for _, c := range []struct{ why, config string }{
		{"is not among the filter's type_urls", `{"@type": "` + rbacURL + `"}`},
		{"abort", faultWith(99)},
	} {
		if why := r.refused(extension("x", c.config)); !strings.Contains(why, "extension configuration x: for listener l: ") || !strings.Contains(why, c.why) {
			t.Errorf("refused: %s", why)
		}
		r.answers("after what is bad", 420)
	}
	if p := strings.Join(r.Problems(), "; "); !strings.Contains(p, "refused extension configuration x") {
		t.Errorf("problems: %s", p)
	}
	r.done()
	r.push(extension("x", faultWith(420)))
	if got := r.done(); got != "" {
		t.Errorf("the same again: %s", got)
	}
	if n := len(r.compiler.Places("80")); n != 1 {
		t.Errorf("%d places are kept for one list of filters", n)
	}
	r.push(httpListener("l", "10.0.0.9:80", "80"))
	r.wants(ExtensionType)
	r.answers("without the filter", 0)
}

// TestExtensionOfAnotherType holds that a listener and its filter's configuration may
// change their type in either order.
func TestExtensionOfAnotherType(t *testing.T) {
	for _, first := range []string{"listener", "extension"} {
		r := newRig(t)
		r.push(routesTo("80", "a=a"))
		r.push(httpListener("l", "10.0.0.9:80", "80", discovered("x", faultURL, "")))
		r.push(routesTo("80", "a=a"))
		r.push(extension("x", faultWith(418)))
		allow := extension("x", `{"@type": "`+rbacURL+`"}`)
		if first == "extension" {
			r.refused(allow)
		}
		r.push(httpListener("l", "10.0.0.9:80", "80", discovered("x", rbacURL, "")))
		if first == "listener" {
			r.answers("until the new one comes", 418)
			r.push(allow)
		}
		r.answers(first+" first", 0)
		if e := r.listeners.all["l"]; e.warm || e.waits != "" {
			t.Errorf("%s first: waits: %q", first, e.waits)
		}
	}
}

// TestExtensionWhileANewerListenerWaits: what comes for a filter is for the version of its
// listener that is served, too, unless it can't be.
func TestExtensionWhileANewerListenerWaits(t *testing.T) {
	for _, c := range []struct {
		name, filter string // of the newer version
		push         string
		served       int // until the newer one is
		next         int // by that
	}{
		{"an update", discovered("x", faultURL, ""), faultWith(420), 420, 420},
		{"an update for the older one alone", "", faultWith(420), 420, 0},
		{"of a type that is the newer one's", discovered("x", rbacURL, ""), `{"@type": "` + rbacURL + `"}`, 418, 0},
		{"removed", "", "", 418, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.push(httpListener("l", "10.0.0.9:80", "80", discovered("x", faultURL, "")))
			r.push(routesTo("80", "a=a"))
			r.push(extension("x", faultWith(418)))
			filters := []string{}
			if c.filter != "" {
				filters = append(filters, c.filter)
			}
			r.push(httpListener("l", "10.0.0.9:80", "81", filters...))
			r.answers("while the newer one waits", 418)
			if c.push == "" {
				r.remove(ExtensionType, "x")
			} else {
				r.push(extension("x", c.push))
			}
			r.answers("when the configuration has changed", c.served)
			if e := r.listeners.all["l"]; !e.warm || e.run.older != nil {
				t.Errorf("the newer one waits: %t", e.warm)
			}
			if got := tableText(r.serving["l"].Chains[0].HCM.Routes.Load()); got != "80{a=a}" {
				t.Errorf("routes of the older one: %s", got)
			}
			r.push(routesTo("81", "a=a"))
			r.answers("by the newer one", c.next)
			if n := len(r.compiler.Places("80")); n != 0 {
				t.Errorf("%d places of the older one are kept", n)
			}
		})
	}
}

// TestExtensionRemoved holds that a filter isn't left out when its configuration is removed.
func TestExtensionRemoved(t *testing.T) {
	r := newRig(t)
	r.push(httpListener("l", "10.0.0.9:80", "80", discovered("x", faultURL, "")))
	r.push(routesTo("80", "a=a"))
	r.push(extension("x", faultWith(418)))
	r.remove(ExtensionType, "x")
	r.answers("after removal", 500)
	r.push(extension("x", faultWith(418)))
	r.answers("when it is back", 418)
}

// TestExtensionsInCache holds that a filter has its configuration from the start when the
// last good configuration is served from disk.
func TestExtensionsInCache(t *testing.T) {
	dir := t.TempDir()
	kept := func(o *Options) { o.Cache, o.Node = dir, "n" }
	r := newRig(t, kept)
	r.push(staticCluster("a", "10.0.0.1:80"))
	r.push(httpListener("l", "10.0.0.9:80", "80", discovered("x", faultURL, "")))
	r.push(routesTo("80", "a=a"))
	r.push(extension("x", faultWith(418)))
	r.writeCache()
	next := newRig(t, kept)
	if !next.LoadCache() {
		t.Fatal("there is none")
	}
	next.answers("from the cache", 418)
	next.wants(ExtensionType, "x")
}

// TestExtensionStats holds the names that Envoy counts under.
func TestExtensionStats(t *testing.T) {
	r := newRig(t)
	r.push(httpListener("l", "10.0.0.9:80", "80", discovered("x", faultURL, "")))
	r.push(extension("x", faultWith(418)))
	r.refused(wasmExtension("x"))
	registry := stats.NewRegistry()
	registry.Add(r.Sink)
	got := map[string]float64{}
	for _, m := range registry.List(stats.Query{}) {
		got[m.Name] = m.Value
	}
	for name, want := range map[string]float64{"config_reload": 1, "config_fail": 1} {
		if v, is := got["extension_config_discovery.http_filter.x."+name]; !is || v != want {
			t.Errorf("%s is %v (%t), not %v", name, v, is, want)
		}
	}
}
