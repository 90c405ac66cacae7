// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pillion/test/rig"
)

func wantCount(got, want int) error {
	if got != want {
		return fmt.Errorf("there are %d, want %d", got, want)
	}
	return nil
}

// outboundClusters returns the names of the mesh's clusters in the dump.
func outboundClusters(t *testing.T, p *rig.Proxy) []string {
	t.Helper()
	var dump struct {
		Configs []struct {
			Clusters []struct {
				Cluster struct{ Name string }
			} `json:"dynamic_active_clusters"`
		}
	}
	if err := json.Unmarshal([]byte(p.Get(t, "/config_dump")), &dump); err != nil {
		t.Fatalf("/config_dump: %v", err)
	}
	var names []string
	for _, config := range dump.Configs {
		for _, c := range config.Clusters {
			if strings.HasPrefix(c.Cluster.Name, "outbound|") {
				names = append(names, c.Cluster.Name)
			}
		}
	}
	return names
}

// TestSidecarScope: the egress scope of file 60 leaves out what other
// namespaces export, at once and both ways.
func TestSidecarScope(t *testing.T) {
	t.Parallel()
	const others = 50
	dir := referenceFiles(t, "10 20 31")
	var b strings.Builder
	for i := range others {
		fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other-%d, namespace: other}
spec:
  hosts: [other-%[1]d.other.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: 19085}}]
---
`, i)
	}
	write(t, filepath.Join(dir, "other.yaml"), b.String())
	reference.start(t)
	p := rig.Start(t, binaries.Static(t), rig.Options{}, dir)

	// reviews with its two subsets, ratings, upload-service.
	const own = 5
	wantClusters := func(when string, want int) {
		t.Helper()
		rig.Until(t, when, func() error { return wantCount(len(outboundClusters(t, p)), want) })
	}
	wantClusters("without a scope every service is loaded", own+others)
	addReferenceFiles(t, dir, "60")
	wantClusters("the scope leaves the other namespace out", own)
	if resp := do(t, p.HTTP, get("reviews:9080", "/reviews/1")); resp.Status != 200 {
		t.Errorf("within the scope: status %d", resp.Status)
	}
	if err := os.Remove(filepath.Join(dir, "60-egress-scope.yaml")); err != nil {
		t.Fatal(err)
	}
	wantClusters("without the scope every service is loaded again", own+others)
}

// TestBadEdit: whatever is wrong with an edit, the file and line are named,
// the refusal is counted, and the last good configuration serves on.
func TestBadEdit(t *testing.T) {
	t.Parallel()
	p, dir := startReference(t, "10 20 31")
	path := filepath.Join(dir, "20-route-by-header.yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0.0
	for _, c := range []struct{ what, old, new, message string }{
		{"a syntax error", "hosts: [reviews]", "hosts: [reviews", `20-route-by-header\.yaml:\d+`},
		{"a wrong type", "hosts: [reviews]", "hosts: 7", `20-route-by-header\.yaml:\d+: VirtualService/default/reviews: spec\.hosts`},
		{"no destination", "{host: reviews, subset: v1}", "{}", `20-route-by-header\.yaml:\d+: VirtualService/default/reviews: spec\.http\[1\]\.route\[0\]\.destination`},
		{"a negative weight", "subset: v1}}", "subset: v1}, weight: -1}", `20-route-by-header\.yaml:\d+: VirtualService/default/reviews: spec\.http\[1\]\.route\[0\]\.weight`},
		{"a bad expression", "{exact: jason}", `{regex: "("}`, `20-route-by-header\.yaml:\d+: VirtualService/default/reviews: spec\.http\[0\]\.match\[0\]\.headers`},
		{"a second one of the same name", "kind: VirtualService", `kind: VirtualService
metadata: {name: reviews, namespace: default}
spec: {hosts: [other], http: [{route: [{destination: {host: other}}]}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService`, `20-route-by-header\.yaml:\d+.*20-route-by-header\.yaml:\d+`},
	} {
		if strings.Count(string(good), c.old) != 1 {
			t.Fatalf("%s doesn't hold %q once", path, c.old)
		}
		before := len(p.Stderr.String())
		write(t, path, strings.Replace(string(good), c.old, c.new, 1))
		message := regexp.MustCompile(c.message)
		rig.Until(t, c.what+" is reported", func() error {
			if said := p.Stderr.String()[before:]; !message.MatchString(said) {
				return fmt.Errorf("stderr says %q, which doesn't match %s", said, c.message)
			}
			return nil
		})
		rig.Until(t, c.what+" is counted", func() error {
			if now := p.Scrape(t).Sum("pillion_config_updates_rejected_total"); now <= refused {
				return fmt.Errorf("pillion_config_updates_rejected_total is %v", now)
			}
			return nil
		})
		refused = p.Scrape(t).Sum("pillion_config_updates_rejected_total")
		for _, who := range []struct{ field, version string }{{"end-user: jason", "v2"}, {"x-none: 1", "v1"}} {
			resp := do(t, p.HTTP, get("reviews:9080", "/reviews/1", who.field))
			if origin := resp.Fields.Get("x-origin"); resp.Status != 200 || !strings.HasPrefix(origin, who.version) {
				t.Errorf("after %s, with %s: status %d from %s, want %s as before", c.what, who.field, resp.Status, origin, who.version)
			}
		}
	}
	// A good edit after all the bad ones is taken.
	write(t, path, strings.Replace(string(good), "exact: jason", "exact: tom", 1))
	rig.Until(t, "the good edit is taken", func() error {
		if origin := do(t, p.HTTP, get("reviews:9080", "/reviews/1", "end-user: tom")).Fields.Get("x-origin"); !strings.HasPrefix(origin, "v2") {
			return fmt.Errorf("%s answered", origin)
		}
		return nil
	})
}
