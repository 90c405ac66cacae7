// SPDX-License-Identifier: Apache-2.0

// Package filter is the contract between the HTTP connection manager and the
// filters of a chain. One folder below holds each filter.
//
// A filter is built once from its configuration (Parse may fail and then the
// resource is refused; building what was parsed can't fail) and is shared by
// all requests, so it holds no state of a request. Filters that have nothing
// to do for a route are left out of that route's chain, so they cost nothing.
package filter

import (
	"slices"

	"pillion/proxy/http"
)

// Status is what a filter wants done next.
type Status uint8

const (
	// Continue goes on with the next filter.
	Continue Status = iota
	// Reply ends the exchange with Exchange.LocalReply.
	Reply
)

// RequestFilter sees each request once, after routing and before an upstream
// is chosen. It may edit ex.Req.
type RequestFilter interface {
	OnRequest(ex *http.Exchange) Status
}

// Waiter is a RequestFilter that may have to wait (a delay, an outside
// check). If Waits reports true for an exchange, OnRequest may block, and is
// run where blocking holds up nobody else. It must return soon after
// ex.Cancelled is closed.
type Waiter interface {
	RequestFilter
	Waits(ex *http.Exchange) bool
}

// BodyReader is a Waiter that has to see the beginning of the request's body.
// For an exchange that has a body and on which it waits, ex.EarlyBody is filled
// before OnRequest: to the body's end if that comes before limit octets, else
// with limit octets or more. Several of a chain see the same body.
type BodyReader interface {
	Waiter
	// BodyLimit is limit; 0 asks for nothing.
	BodyLimit(ex *http.Exchange) (limit int)
}

// ResponseFilter sees each response's head before it is sent, also that of a
// local reply. It may edit ex.Resp.
type ResponseFilter interface {
	OnResponse(ex *http.Exchange)
}

// FirstResponder is a ResponseFilter that others depend on: it sees a response
// before those that don't implement this, wherever it stands.
type FirstResponder interface {
	ResponseFilter
	RespondsFirst()
}

// StreamWrapper is a RequestFilter that also changes bodies: it puts itself
// between the forwarder and the client. Wrap is called once for each exchange,
// when the request phase is over, and returns down itself if the exchange is
// no concern of its. Whatever answers the exchange, the proxy itself too,
// writes to what Wrap returned. The calls of a ServerStream that Wrap doesn't
// change it hands on.
type StreamWrapper interface {
	Wrap(ex *http.Exchange, down http.ServerStream) http.ServerStream
}

// FinishFilter sees each exchange exactly once when it is over, however it
// ended. It must not edit it.
type FinishFilter interface {
	OnFinish(ex *http.Exchange)
}

// Chain is the acting filters of one route, phase by phase, in order.
// Immutable once built.
type Chain struct {
	Request  []RequestFilter
	Response []ResponseFilter
	Wrap     []StreamWrapper
	Finish   []FinishFilter

	// places are the positions of Request's filters in the configuration, by
	// which the chains of different routes compare.
	places []int
}

// After returns the index in c.Request of the first filter that stands behind
// the one at index i of other's, in a configuration of both.
func (c *Chain) After(other *Chain, i int) int {
	at, _ := slices.BinarySearch(c.places, other.places[i]+1)
	return at
}

// NewChain sorts filters, given in the order of configuration, into the
// phases that they implement. Response filters run in reverse order, as
// Envoy's encoder filters do; of wrappers the first one is next to the client.
// nil entries are left out, and keep their place.
func NewChain(filters ...any) *Chain {
	c := &Chain{}
	for place, f := range filters {
		if f == nil {
			continue
		}
		if r, ok := f.(RequestFilter); ok {
			c.Request = append(c.Request, r)
			c.places = append(c.places, place)
		}
		if r, ok := f.(ResponseFilter); ok {
			c.Response = append(c.Response, nil)
			copy(c.Response[1:], c.Response)
			c.Response[0] = r
		}
		if r, ok := f.(StreamWrapper); ok {
			c.Wrap = append(c.Wrap, r)
		}
		if r, ok := f.(FinishFilter); ok {
			c.Finish = append(c.Finish, r)
		}
	}
	slices.SortStableFunc(c.Response, func(a, b ResponseFilter) int { return later(a) - later(b) })
	return c
}

// later orders response filters.
func later(r ResponseFilter) int {
	if _, first := r.(FirstResponder); first {
		return 0
	}
	return 1
}
