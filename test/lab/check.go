// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pillion/test/rig"
)

// Page is what test/lab/app answers.
type Page struct {
	App     string              `json:"app"`
	Path    string              `json:"path"`
	Host    string              `json:"host"`
	Proto   string              `json:"proto"`
	Peer    string              `json:"peer"` // where the connection came from
	Headers map[string][]string `json:"headers"`
	Status  int                 `json:"status"` // of the call that it made, if any
	Called  json.RawMessage     `json:"called"` // what that was answered
	Error   string              `json:"error"`
}

// Next is the page that the application got from the one that it called.
func (p *Page) Next() (*Page, error) {
	var next Page
	if err := json.Unmarshal(p.Called, &next); err != nil {
		return nil, fmt.Errorf("%s made a call that was answered with %d %s %s", p.App, p.Status, p.Called, p.Error)
	}
	return &next, nil
}

// CheckBookinfo asks what everybody asks of the bookinfo mesh when all its
// pods but legacy have a proxy: that a request finds its way from the gateway,
// that each hop is by mutual TLS between the right two, that versions get
// their weights, and that nobody without a certificate is let in.
func CheckBookinfo(t testing.TB, n *Network, app string) {
	t.Helper()
	world := n.Pod("legacy")
	// A tester is sent to v2, which calls ratings. A proxy that has taken its
	// configuration may need a moment to have it in place; afterwards no
	// request fails.
	var hops []*Page
	rig.Until(t, "the gateway answers", func() (err error) {
		hops, err = ask(world, app, "end-user: tester", 3)
		return err
	})
	for i, want := range []struct{ app, by, from string }{
		{"productpage-v1", "bookinfo-productpage", "istio-system/sa/istio-ingressgateway-service-account"},
		{"reviews-v2", "bookinfo-reviews", "default/sa/bookinfo-productpage"},
		{"ratings-v1", "bookinfo-ratings", "default/sa/bookinfo-reviews"},
	} {
		at := hops[i]
		if at.App != want.app {
			t.Errorf("hop %d is %s, not %s", i, at.App, want.app)
		}
		if !strings.HasPrefix(at.Peer, "127.0.0.6:") {
			t.Errorf("%s was called from %s, not from where an inbound proxy calls", at.App, at.Peer)
		}
		xfcc := strings.Join(at.Headers["X-Forwarded-Client-Cert"], ",")
		if !strings.Contains(xfcc, "By=spiffe://cluster.local/ns/default/sa/"+want.by) || !strings.Contains(xfcc, "URI=spiffe://cluster.local/ns/"+want.from) {
			t.Errorf("%s: X-Forwarded-Client-Cert: %q", at.App, xfcc)
		}
	}
	if one, other := hops[0].Headers["X-Request-Id"], hops[2].Headers["X-Request-Id"]; len(one) != 1 || len(other) != 1 || one[0] != other[0] {
		t.Errorf("the request's id is %q at first and %q at last", one, other)
	}
	// Others are spread over both versions: 20 of 20 to one of them is a
	// chance of one in half a million.
	seen := map[string]int{}
	for range 20 {
		hops, err := ask(world, app, "", 2)
		if err != nil {
			t.Fatal(err)
		}
		seen[hops[1].App]++
	}
	if seen["reviews-v1"] == 0 || seen["reviews-v2"] == 0 || len(seen) != 2 {
		t.Errorf("reviews answered as %v", seen)
	}
	// STRICT: no pod without a sidecar gets in, by the pod's address.
	for _, to := range []string{"10.244.0.10", "10.244.0.11", "10.244.0.12", "10.244.0.13"} {
		if code, body, err := world.Get(app, 0, "http://"+to+":9080/", ""); err == nil {
			t.Errorf("%s in the clear: %d %s", to, code, body)
		}
	}
}

// ask requests productpage at the gateway, and returns what the first hops saw.
func ask(from *Pod, app, header string, hops int) ([]*Page, error) {
	code, body, err := from.Get(app, 0, "http://10.244.0.14:8080/productpage", header)
	if err != nil {
		return nil, err
	}
	page := &Page{}
	if err := json.Unmarshal([]byte(body), page); err != nil || code != 200 {
		return nil, fmt.Errorf("%d %s", code, body)
	}
	pages := []*Page{page}
	for len(pages) < hops {
		if page, err = page.Next(); err != nil {
			return nil, err
		}
		pages = append(pages, page)
	}
	return pages, nil
}
