// SPDX-License-Identifier: Apache-2.0

package router

import (
	"math/bits"
	"time"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/trace"
)

// Cluster is where a route sends requests. A route holds the stable place of
// a cluster, which may be empty while the cluster doesn't exist.
type Cluster interface {
	Name() string
	// StatName is what the cluster is called in statistics: its name, where nothing else
	// is configured.
	StatName() string
}

// Kind is what a route does with a request.
type Kind uint8

// The kinds.
const (
	Forward  Kind = iota // send it to a Target
	Redirect             // answer with a Location
	Direct               // answer with a fixed response
)

// Route is one entry of a virtual host. Immutable once its table is built.
type Route struct {
	Name string
	Kind Kind
	// Chain are the filters for the route. A target may have its own.
	Chain *filter.Chain
	Match Criteria

	// Targets are where a Forward route sends requests, by weight.
	Targets []Target
	// Timeout bounds a request from its last byte to the end of the response;
	// 0 does not. See TimesFor for gRPC.
	Timeout time.Duration
	// Retry is nil when failed tries are not repeated by policy. Routes with
	// equal policies share one.
	Retry *RetryPolicy
	// NotFoundStatus is the answer when the cluster doesn't exist.
	NotFoundStatus int
	// Reply is the answer of a Redirect or Direct route.
	Reply *Reply
	// Rewrite changes the request; nil when nothing is changed.
	Rewrite *Rewrite
	Ops     MessageOps
	// More holds what few routes have; nil is the same as the zero value.
	More *More

	// Operation names the route in traces (decorator.operation).
	Operation string
	// Source is the configuration object that the route was made of, as
	// istiod tells it in metadata.
	Source string

	vhost *VirtualHost // nil for the redirect to TLS
	total uint64       // sum of the targets' weights
}

// More is the part of a route that is rarely used.
type More struct {
	Mirrors []Mirror
	Hash    []HashPolicy
	// GRPC and StreamGRPC make grpc-timeout bound the request or the stream.
	GRPC, StreamGRPC GRPCTimeout
	// Upgrades overrides what the connection manager says of protocols to
	// switch to.
	Upgrades Upgrades
	// IdleTimeout overrides the connection manager's stream idle timeout if
	// HasIdleTimeout is set; 0 turns it off.
	IdleTimeout    time.Duration
	HasIdleTimeout bool
	// MaxStream bounds the whole exchange if HasMaxStream is set; 0 does not.
	MaxStream    time.Duration
	HasMaxStream bool
	// BufferLimit bounds the octets of a body kept for retries and mirrors if
	// HasBufferLimit is set.
	BufferLimit    uint64
	HasBufferLimit bool
	// Tracing is what the route says of it; nil for nothing.
	Tracing *trace.Route
}

// Tracing is what the route says of it; nil for nothing.
func (r *Route) Tracing() *trace.Route {
	if r.More == nil {
		return nil
	}
	return r.More.Tracing
}

// Target is a destination of a route.
type Target struct {
	Cluster Cluster
	// Weight is the target's share of the route's requests.
	Weight uint32
	// Chain are the filters for requests that go here; the route's unless the
	// target overrides one.
	Chain *filter.Chain
	// HostRewrite replaces the authority unless it is nil.
	HostRewrite []byte
	Ops         MessageOps
}

// seal ends the building of a route.
func (r *Route) seal(vh *VirtualHost) {
	r.vhost = vh
	for i := range r.Targets {
		r.total += uint64(r.Targets[i].Weight)
		if r.Targets[i].Chain == nil {
			r.Targets[i].Chain = r.Chain
		}
	}
}

// Target chooses a destination: each gets its share exactly in the long run.
// random may be that of Match; the choice is independent of it.
func (r *Route) Target(random uint64) *Target {
	if len(r.Targets) == 1 {
		return &r.Targets[0]
	}
	// The high half of the product is a number below total, without the bias
	// and the cost of a division.
	x, _ := bits.Mul64(match.Mix(random, saltTarget), r.total)
	for i := range r.Targets {
		w := uint64(r.Targets[i].Weight)
		if x < w {
			return &r.Targets[i]
		}
		x -= w
	}
	return nil // a Forward route without targets is not built
}

// VirtualHost returns the virtual host that the route belongs to, nil for the
// redirect to TLS.
func (r *Route) VirtualHost() *VirtualHost { return r.vhost }

// Salts make independent decisions of one random number. No other package that
// draws from Exchange.Random may use the same ones.
const (
	saltTarget = 0x8bb84b93962eacc9
	saltMirror = 0x4b33a62ed433d4a3
)

// Criteria are what a route asks of a request. All have to hold.
type Criteria struct {
	Path    match.Path
	Headers []filter.HeaderMatcher
	Queries []match.Query
	// GRPC asks for a gRPC request, by its content type.
	GRPC     bool
	Fraction match.Fraction
}

// input is what criteria look at.
type input struct {
	head        *http.RequestHead
	path, query []byte
	random      uint64
}

// Match reports whether a request meets the criteria outside of a table, as
// filters with rules of their own ask. random is what Fraction goes by.
func (c *Criteria) Match(h *http.RequestHead, random uint64) bool {
	path, query := match.CutQuery(h.Path)
	return c.matches(&input{head: h, path: path, query: query, random: random})
}

func (c *Criteria) matches(in *input) bool {
	if !c.Path.Match(in.path) {
		return false
	}
	for i := range c.Headers {
		if !c.Headers[i].Match(in.head) {
			return false
		}
	}
	for i := range c.Queries {
		if !c.Queries[i].Match(in.query) {
			return false
		}
	}
	if c.GRPC && !in.head.IsGRPC() {
		return false
	}
	return c.Fraction.Takes(in.random)
}
