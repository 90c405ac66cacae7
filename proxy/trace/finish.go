// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"strconv"
	"strings"
	"sync"

	"pillion/proxy/http"
)

// Finish makes the span of an exchange that is over, if it is recorded.
func (r *Request) Finish(ex *http.Exchange) {
	if !r.ctx.Sampled {
		return
	}
	b := builders.Get().(*builder)
	s := &b.span
	*s = Span{TraceID: r.ctx.TraceID, ID: r.ctx.SpanID, Parent: r.ctx.ParentID, Remote: r.joined, State: r.ctx.State, Shared: r.shared,
		Start: wall(ex.Start), End: wall(ex.End), Local: ex.Conn.Local}
	if !r.cfg.Ingress && !r.cfg.Upstream {
		s.Kind = Client
	}
	s.Name = r.name(b, ex)
	b.downstream(r.cfg, ex)
	b.common(r.cfg, ex, ex.Resp.Status, ex.Flags)
	b.grpcResponse(ex)
	b.custom(r.cfg, r.route, ex)
	if r.cfg.Verbose {
		if ended := ex.RequestEnd; ended != 0 || ex.Req.Framing.Kind != http.BodyNone {
			b.happened(ended, "last_downstream_rx_byte_received")
		} else {
			b.happened(ex.Start, "last_downstream_rx_byte_received")
		}
		b.upstreamEvents(ex)
		b.happened(ex.End, "last_downstream_tx_byte_sent")
	}
	b.report(r.cfg.Spans)
}

// TryEnds implements http.TryObserver.
func (r *Request) TryEnds(ex *http.Exchange, err *http.Error, retried bool) {
	if !r.trying {
		return
	}
	r.trying = false
	b := builders.Get().(*builder)
	b.span = Span{TraceID: r.ctx.TraceID, ID: r.try, Parent: r.ctx.SpanID, State: r.ctx.State, Kind: Client,
		Start: wall(r.tryStart), End: wall(http.Now()), Local: ex.UpstreamLocal}
	b.span.Name = r.tryName(b, ex)
	b.add("http.protocol", b.text(ex.UpstreamProtocol.String()))
	if ex.Upstream != nil {
		b.add("upstream_address", b.text(ex.Upstream.Address))
		b.add("peer.address", b.text(ex.Upstream.Address))
	}
	if ex.Attempts > 1 {
		b.add("retry.count", b.number(int64(ex.Attempts)-1))
	}
	if err == nil || retried {
		b.common(r.cfg, ex, ex.Resp.Status, 0)
		b.grpcResponse(ex)
	} else {
		b.common(r.cfg, ex, 0, err.Flag)
		b.failure(err)
	}
	b.custom(r.cfg, r.route, ex)
	if r.cfg.Verbose {
		b.upstreamEvents(ex)
	}
	b.report(r.cfg.Spans)
}

// name is the name of the span of the whole exchange.
func (r *Request) name(b *builder, ex *http.Exchange) []byte {
	if r.named != nil {
		return r.named
	}
	op := r.cfg.Operation
	if r.route != nil && r.route.Operation != nil {
		op = r.route.Operation
	}
	if op != nil {
		if v, ok := b.value(op, ex); ok && len(v) > 0 {
			return v
		}
	}
	switch {
	case r.operation != "":
		return b.text(r.operation)
	case r.cfg.Zipkin:
		return ex.Req.Authority
	case r.cfg.Ingress:
		return b.text("ingress")
	}
	at := len(b.room)
	b.room = append(append(b.room, "egress "...), ex.Req.Authority...)
	return b.room[at:]
}

// tryName is the name of the span of a try.
func (r *Request) tryName(b *builder, ex *http.Exchange) []byte {
	op := r.cfg.UpstreamOperation
	if r.route != nil && r.route.UpstreamOperation != nil {
		op = r.route.UpstreamOperation
	}
	if op != nil {
		if v, ok := b.value(op, ex); ok && len(v) > 0 {
			return v
		}
	}
	at := len(b.room)
	b.room = append(append(append(b.room, "router "...), ex.ClusterObserved()...), " egress"...)
	return b.room[at:]
}

// builder is memory for a span that is being filled.
type builder struct {
	span       Span
	attributes []Attribute
	events     []Event
	room       []byte // what values point to
}

var builders = sync.Pool{New: func() any { return &builder{room: make([]byte, 0, 1024)} }}

// keptRoom bounds the memory that a builder keeps, in octets.
const keptRoom = 16 << 10

// report hands the span on and gives the builder back.
func (b *builder) report(to Sink) {
	b.span.Attributes, b.span.Events = b.attributes, b.events
	to.Report(&b.span)
	clear(b.attributes)
	b.span, b.attributes, b.events, b.room = Span{}, b.attributes[:0], b.events[:0], b.room[:0]
	if cap(b.room) <= keptRoom {
		builders.Put(b)
	}
}

func (b *builder) add(key string, value []byte) {
	b.attributes = append(b.attributes, Attribute{key, value})
}

// set is add for a key that may be there already.
func (b *builder) set(key string, value []byte) {
	for i := range b.attributes {
		if b.attributes[i].Key == key {
			b.attributes[i].Value = value
			return
		}
	}
	b.add(key, value)
}

// text returns s as octets that live as long as the span.
func (b *builder) text(s string) []byte {
	at := len(b.room)
	b.room = append(b.room, s...)
	return b.room[at:]
}

func (b *builder) number(n int64) []byte {
	at := len(b.room)
	b.room = strconv.AppendInt(b.room, n, 10)
	return b.room[at:]
}

func (b *builder) value(v Value, ex *http.Exchange) (text []byte, ok bool) {
	at := len(b.room)
	b.room, ok = v.Append(b.room, ex)
	return b.room[at:], ok
}

// fieldOr is the value of a request's field, or - without one.
func fieldOr(ex *http.Exchange, id http.HeaderID) []byte {
	if v, ok := ex.Req.Fields.Get(id); ok {
		return v
	}
	return dash
}

var (
	dash      = []byte("-")
	valueTrue = []byte("true")
	component = []byte("proxy")
)

// downstream adds what is known of the client and its request (Envoy:
// HttpTracerUtility::finalizeDownstreamSpan).
func (b *builder) downstream(cfg *Config, ex *http.Exchange) {
	fields := &ex.Req.Fields
	if v, ok := fields.Get(http.HeaderXRequestID); ok {
		b.add("guid:x-request-id", v)
	}
	b.add("http.url", b.url(cfg, ex))
	b.add("http.method", ex.Req.RawMethod)
	b.add("downstream_cluster", fieldOr(ex, http.HeaderXEnvoyDownstreamServiceCluster))
	b.add("user_agent", fieldOr(ex, http.HeaderUserAgent))
	b.add("http.protocol", b.text(ex.Req.Protocol.String()))
	b.add("peer.address", b.text(http.HostOf(ex.Conn.Remote)))
	if v, ok := fields.Get(http.HeaderXClientTraceID); ok {
		b.add("guid:x-client-trace-id", v)
	}
	if ex.GRPC {
		b.add("grpc.path", ex.Req.Path)
		b.add("grpc.authority", ex.Req.Authority)
		b.add("grpc.content_type", fieldOr(ex, http.HeaderContentType))
		if v, ok := fields.Get(http.HeaderGRPCTimeout); ok {
			b.add("grpc.timeout", v)
		}
	}
	b.add("request_size", b.number(ex.RequestBodyBytes))
	b.add("response_size", b.number(ex.ResponseBodyBytes))
}

// url is what the client asked for (Envoy: Http::Utility::buildOriginalUri).
func (b *builder) url(cfg *Config, ex *http.Exchange) []byte {
	path := ex.Req.Path
	if ex.OriginalPath != nil {
		path = ex.OriginalPath
	}
	if len(path) > cfg.MaxPath {
		path = path[:cfg.MaxPath]
	}
	at := len(b.room)
	b.room = append(append(b.room, ex.Req.Scheme...), "://"...)
	b.room = append(append(b.room, ex.Req.Authority...), path...)
	return b.room[at:]
}

// common adds what the spans of exchanges and of tries have in common (Envoy:
// setCommonTags). status is 0 where there was no answer.
func (b *builder) common(cfg *Config, ex *http.Exchange, status int, flags http.Flags) {
	b.add("component", component)
	if ex.ClusterName != "" {
		b.add("upstream_cluster", b.text(ex.ClusterName))
		b.add("upstream_cluster.name", b.text(ex.ClusterObserved()))
	}
	b.add("http.status_code", b.number(int64(status)))
	at := len(b.room)
	b.room = flags.Append(b.room)
	b.add("response_flags", b.room[at:])
	b.add("node_id", cfg.Node)
	b.add("zone", cfg.Zone)
	if status == 0 || status >= 500 {
		b.fail()
	}
}

// fail says that the call didn't succeed.
func (b *builder) fail() {
	b.span.Failed = true
	b.set("error", valueTrue)
}

// failure says why a try has no answer (Envoy: UpstreamRequest::onResetStream).
func (b *builder) failure(err *http.Error) {
	if err.Kind == http.KindClientGone {
		b.add("canceled", valueTrue)
		return
	}
	_, reason, ok := strings.Cut(err.Detail, "{")
	if !ok {
		return
	}
	if i := strings.IndexAny(reason, "|}"); i >= 0 {
		reason = reason[:i]
	}
	at := len(b.room)
	for _, c := range []byte(reason) {
		if c == '_' {
			c = ' '
		}
		b.room = append(b.room, c)
	}
	b.add("error.reason", b.room[at:])
}

// grpcResponse adds the status of a call, of the head and then of the trailers.
func (b *builder) grpcResponse(ex *http.Exchange) {
	b.grpcStatus(&ex.Resp.Fields)
	if ex.RespTrailers != nil {
		b.grpcStatus(ex.RespTrailers)
	}
}

func (b *builder) grpcStatus(fields *http.Fields) {
	v, ok := fields.Get(http.HeaderGRPCStatus)
	if !ok {
		return
	}
	b.set("grpc.status_code", v)
	if m, ok := fields.Get(http.HeaderGRPCMessage); ok {
		b.set("grpc.message", m)
	}
	if code, ok := fields.GRPCStatus(); ok && serverFailed(code) {
		b.fail()
	}
}

// serverFailed reports whether a status is the server's fault (Envoy:
// addGrpcResponseTags, issue 18877).
func serverFailed(code http.GRPCCode) bool {
	switch code {
	case 2, 4, 8, 12, 13, 14, 15: // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
		return true
	}
	return false
}

// custom adds the tags of configuration, of which the route's come last.
func (b *builder) custom(cfg *Config, route *Route, ex *http.Exchange) {
	for i := range cfg.Tags {
		b.tag(&cfg.Tags[i], ex)
	}
	if route != nil {
		for i := range route.Tags {
			b.tag(&route.Tags[i], ex)
		}
	}
}

func (b *builder) tag(t *Tag, ex *http.Exchange) {
	if v, ok := b.value(t.Value, ex); ok {
		b.set(t.Key, v)
	}
}

// upstreamEvents tells when things happened at the host.
func (b *builder) upstreamEvents(ex *http.Exchange) {
	b.happened(ex.UpstreamStart, "first_upstream_tx_byte_sent")
	b.happened(ex.UpstreamFirst, "first_upstream_rx_byte_received")
}

// happened adds an event at a time of http.Now; 0 is none.
func (b *builder) happened(at int64, name string) {
	if at != 0 {
		b.events = append(b.events, Event{wall(at), name})
	}
}

func wall(at int64) int64 { return http.WallTime(at).UnixNano() }
