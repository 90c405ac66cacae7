// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pillion/test/rig"
)

// page is what app answers.
type page struct {
	App     string              `json:"app"`
	Peer    string              `json:"peer"`
	Headers map[string][]string `json:"headers"`
	Status  int                 `json:"status"`
	Called  json.RawMessage     `json:"called"`
	Error   string              `json:"error"`
}

func (p *page) called(t *testing.T) page {
	t.Helper()
	var next page
	if err := json.Unmarshal(p.Called, &next); err != nil {
		t.Fatalf("%s called %s: %v (%s)", p.App, p.Called, err, p.Error)
	}
	return next
}

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
	world := n.Pod("legacy")
	ask := func(header string) (first page) {
		t.Helper()
		rig.Until(t, "the gateway answers", func() error {
			code, body, err := world.Get(app, 0, "http://10.244.0.14:8080/productpage", header)
			if err == nil && code != 200 {
				err = fmt.Errorf("%d %s", code, body)
			}
			if err != nil {
				return err
			}
			return json.Unmarshal([]byte(body), &first)
		})
		return first
	}
	// A tester is sent to v2, which calls ratings.
	web := ask("end-user: tester")
	reviews := web.called(t)
	ratings := reviews.called(t)
	if web.App != "productpage-v1" || reviews.App != "reviews-v2" || ratings.App != "ratings-v1" {
		t.Errorf("%s, %s, %s", web.App, reviews.App, ratings.App)
	}
	if !strings.HasPrefix(ratings.Peer, "127.0.0.6:") {
		t.Errorf("ratings was called from %s", ratings.Peer)
	}
	for _, hop := range []struct {
		at       page
		by, from string
	}{
		{web, "bookinfo-productpage", "istio-system/sa/istio-ingressgateway-service-account"},
		{reviews, "bookinfo-reviews", "default/sa/bookinfo-productpage"},
		{ratings, "bookinfo-ratings", "default/sa/bookinfo-reviews"},
	} {
		xfcc := strings.Join(hop.at.Headers["X-Forwarded-Client-Cert"], ",")
		if !strings.Contains(xfcc, "By=spiffe://cluster.local/ns/default/sa/"+hop.by) || !strings.Contains(xfcc, "URI=spiffe://cluster.local/ns/"+hop.from) {
			t.Errorf("%s: %q", hop.at.App, xfcc)
		}
	}
	// The others are spread over both versions.
	seen := map[string]int{}
	for range 20 {
		first := ask("")
		seen[first.called(t).App]++
	}
	if len(seen) != 2 {
		t.Errorf("reviews answered as %v", seen)
	}
	// STRICT: no pod without a sidecar gets in.
	if code, body, err := world.Get(app, 0, "http://10.244.0.11:9080/", ""); err == nil {
		t.Errorf("in the clear: %d %s", code, body)
	}
}
