// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"pillion/proxy/http"
	"pillion/proxy/match"
)

// Config is the tracing of one connection manager. Immutable.
type Config struct {
	Sampling
	// Spans gets the spans.
	Spans Sink
	// Propagation is how requests tell of their trace. Silent reads what they tell, and
	// doesn't tell the next one (no_context_propagation).
	Propagation Propagation
	Silent      bool
	// Zipkin says that spans are Zipkin's: the first of a trace has the trace's ID and
	// is named by the host alone.
	Zipkin bool
	// ShortIDs makes trace IDs of 64 bits, SharedSpans has both sides of a call share a
	// span (Zipkin).
	ShortIDs, SharedSpans bool
	// Always records a request also if whoever called us doesn't (OpenTelemetry's sampler
	// AlwaysOn, as Envoy takes it).
	Always bool
	// Ingress says that requests come to the workload and don't go out from it.
	Ingress bool
	// Upstream makes a span of each try at a host, too.
	Upstream bool
	// Verbose tells in events when things happened.
	Verbose bool
	// MaxPath bounds the path in the tag http.url, in octets.
	MaxPath int
	// Operation and UpstreamOperation name spans; nil for the usual name.
	Operation, UpstreamOperation Value
	Tags                         []Tag
	// Node and Zone are of the proxy.
	Node, Zone []byte
}

// Route is what a route says of tracing. Immutable.
type Route struct {
	// Client, Random and Overall, if not nil, stand for those of the connection manager.
	Client, Random, Overall *match.Fraction
	Tags                    []Tag
	// Operation and UpstreamOperation, if not nil, stand for those of the connection
	// manager.
	Operation, UpstreamOperation Value
	// KeepOperation says that the name of the route isn't told to others
	// (decorator.propagate: false).
	KeepOperation bool
}

// Tag is a fact that configuration adds to spans.
type Tag struct {
	Key   string
	Value Value
}

// Value is what becomes of an exchange's facts in words.
type Value interface {
	// Append appends the value; false if there is none.
	Append(dst []byte, ex *http.Exchange) ([]byte, bool)
}

// Request is the trace of one request. The zero value is of one that isn't traced.
// It is owned by whoever owns the exchange.
type Request struct {
	cfg    *Config
	route  *Route
	ctx    Context
	reason Reason
	single bool // it came with B3's one field
	shared bool
	joined bool // the trace was there before
	traced bool // it has a trace, recorded or not
	// named is the name that somebody else has given to the span; nil for none.
	named []byte
	// operation is the route's name, empty for none.
	operation string
	overruled bool // operation isn't told to the client

	try      SpanID // of the try under way, if it has a span
	tryStart int64  // of http.Now
	trying   bool
}

// On reports whether the request is traced, recorded or not.
func (r *Request) On() bool { return r.cfg != nil }

// Reason is why the request is recorded, as far as that is decided here.
func (r *Request) Reason() Reason { return r.reason }

// Recorded reports whether spans are made of the request.
func (r *Request) Recorded() bool { return r.ctx.Sampled }

// Begin begins the trace of a request that was routed. operation and route are the
// route's, empty and nil where it says nothing.
func (r *Request) Begin(cfg *Config, ex *http.Exchange, operation string, route *Route) {
	r.cfg = cfg
	sampling := cfg.Sampling
	route.override(&sampling)
	r.reason = sampling.decide(ex)
	r.join(ex)
	r.SetRoute(ex, operation, route)
	if !r.traced {
		return
	}
	ex.TraceID, ex.SpanID = r.ctx.TraceID, r.ctx.SpanID
	if cfg.Upstream && r.ctx.Sampled {
		ex.Tries = r
	}
	r.tell(ex, &r.ctx)
}

// tell tells whoever comes next of the trace.
func (r *Request) tell(ex *http.Exchange, c *Context) {
	if !r.cfg.Silent {
		r.cfg.Propagation.write(ex, c, r.single)
	}
}

// override puts what the route says into the place of what the connection manager
// says. The route may be nil.
func (o *Route) override(s *Sampling) {
	if o == nil {
		return
	}
	if o.Client != nil {
		s.Client = *o.Client
	}
	if o.Random != nil {
		s.Random = *o.Random
	}
	if o.Overall != nil {
		s.Overall = *o.Overall
	}
}

// join finds the trace that the request belongs to, or begins one.
func (r *Request) join(ex *http.Exchange) {
	cfg := r.cfg
	f := cfg.Propagation.read(&ex.Req.Fields)
	if f.broken {
		return
	}
	sampled := r.reason != NotTraceable
	switch {
	case f.decided && cfg.Zipkin:
		sampled = f.Sampled
	case f.decided && !cfg.Always:
		// Who called us can't have more recorded than our share, only less. In a mesh the
		// request ID has brought the decision along. So does Envoy 1.40.
		sampled = sampled && f.Sampled
	}
	r.single, r.traced, r.joined = f.single, true, f.traced
	switch {
	case f.traced && cfg.SharedSpans && cfg.Ingress:
		r.ctx, r.shared = f.Context, true
	case f.traced:
		r.ctx = Context{TraceID: f.TraceID, SpanID: newSpanID(), ParentID: f.SpanID, State: f.State}
	default:
		r.ctx = Context{TraceID: newTraceID(cfg.ShortIDs)}
		if cfg.Zipkin {
			copy(r.ctx.SpanID[:], r.ctx.TraceID[8:])
		} else {
			r.ctx.SpanID = newSpanID()
		}
	}
	r.ctx.Sampled = sampled
}

// SetRoute names the span by its route. Of a workload's own requests the next proxy
// is told the name, which will overrule what that one calls it (Envoy:
// ActiveStream::traceRequest). It is called again when the route is chosen again.
func (r *Request) SetRoute(ex *http.Exchange, operation string, route *Route) {
	r.operation, r.route, r.overruled = operation, route, false
	fields := &ex.Req.Fields
	if !r.cfg.Ingress {
		if operation != "" && (route == nil || !route.KeepOperation) {
			fields.SetID(http.HeaderXEnvoyDecoratorOperation, append(ex.Scratch(len(operation))[:0], operation...))
		}
		return
	}
	if v, ok := fields.Get(http.HeaderXEnvoyDecoratorOperation); ok {
		if r.overruled = true; len(v) > 0 {
			r.named = v
		}
		fields.DelID(http.HeaderXEnvoyDecoratorOperation)
	}
}

// OnResponse exchanges the names of routes with who answers and who asked.
func (r *Request) OnResponse(ex *http.Exchange) {
	fields := &ex.Resp.Fields
	if r.cfg.Ingress {
		if r.operation != "" && !r.overruled && (r.route == nil || !r.route.KeepOperation) {
			fields.SetID(http.HeaderXEnvoyDecoratorOperation, append(ex.Scratch(len(r.operation))[:0], r.operation...))
		}
		return
	}
	if v, ok := fields.Get(http.HeaderXEnvoyDecoratorOperation); ok {
		if len(v) > 0 {
			r.named = v
		}
		fields.DelID(http.HeaderXEnvoyDecoratorOperation)
	}
}

// TryBegins implements http.TryObserver: each try has a span of its own, whose ID is
// what the host is told.
func (r *Request) TryBegins(ex *http.Exchange) {
	r.try, r.tryStart, r.trying = newSpanID(), http.Now(), true
	c := r.ctx
	c.SpanID, c.ParentID = r.try, r.ctx.SpanID
	r.tell(ex, &c)
}
