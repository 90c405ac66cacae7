// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"

	"pillion/proxy/http"
)

// Verdict says what became of one route when a request was explained.
type Verdict struct {
	Route *Route
	// Why is the first criterion that failed; empty for the route taken.
	Why string
}

// Explain tells why Match sends a request where it does: the virtual host and
// its routes in order, each with the first criterion that failed, up to the
// one that takes the request.
func (t *Table) Explain(h *http.RequestHead, random uint64) (*VirtualHost, []Verdict) {
	vh := t.domains.find(t.host(h.Authority))
	if vh == nil {
		return nil, nil
	}
	if vh.RequireTLS != TLSNone && vh.wantsTLS(h) {
		return vh, []Verdict{{Route: &t.toTLS}}
	}
	in := t.input(h, random)
	var all []Verdict
	for i := range vh.Routes {
		v := Verdict{Route: &vh.Routes[i], Why: vh.Routes[i].Match.why(&in)}
		all = append(all, v)
		if v.Why == "" {
			break
		}
	}
	return vh, all
}

// why returns the first criterion that a request fails, in the order of
// matches, or nothing.
func (c *Criteria) why(in *input) string {
	if s := c.Path.Why(in.path); s != "" {
		return s
	}
	for i := range c.Headers {
		if s := c.Headers[i].Why(in.head); s != "" {
			return s
		}
	}
	for i := range c.Queries {
		if s := c.Queries[i].Why(in.query); s != "" {
			return s
		}
	}
	if c.GRPC && !in.head.IsGRPC() {
		return "the request is not gRPC"
	}
	if !c.Fraction.Takes(in.random) {
		return fmt.Sprintf("not among the %d of %d requests taken", c.Fraction.Numerator, c.Fraction.Denominator)
	}
	return ""
}
