// SPDX-License-Identifier: Apache-2.0

// Package trace is distributed tracing: which requests are traced, which trace
// they belong to, how the next one in the line is told, and the spans that a
// collector gets.
//
// A request that isn't recorded costs reading and writing the fields that
// carry its trace. Of one that is, a Span is filled when it is over, and a
// Collector appends it in its wire format to the batch under way; sending is
// for a goroutine of the Reporter's. Spans are never kept as objects.
package trace

import (
	"go.opentelemetry.io/otel/trace"
)

// Identities, in OpenTelemetry's own types.
type (
	// TraceID names a trace; zero is none.
	TraceID = trace.TraceID
	// SpanID names a span of a trace; zero is none.
	SpanID = trace.SpanID
)

// Kind is which side of a call a span describes.
type Kind uint8

// The kinds that a proxy has.
const (
	// Server is the side that was called: requests on their way into a workload.
	Server Kind = iota
	// Client is the side that calls.
	Client
)

// Span is one finished span. It is filled for one call of Collector.Append and
// keeps no memory of its own: what it points to belongs to the exchange.
type Span struct {
	TraceID TraceID
	ID      SpanID
	// Parent is the span that caused this one; zero for the first of a trace.
	Parent SpanID
	// Remote says that the parent is somebody else's span.
	Remote bool
	// State is the tracestate that goes with the trace (W3C Trace Context), empty
	// for none.
	State []byte
	Kind  Kind
	Name  []byte
	// Start and End are in nanoseconds since 1970.
	Start, End int64
	// Failed says that the call didn't succeed.
	Failed bool
	// Shared says that the client's span has the same ID: the two sides of a call
	// share one, as Zipkin's users may want it (shared_span_context).
	Shared bool
	// Local is our end of the connection, ip:port; empty if it isn't known.
	Local string
	// Attributes are in the order in which they were set, each key once.
	Attributes []Attribute
	// Events are what happened in between, by time.
	Events []Event
}

// Attribute is a fact about a span (a tag in Zipkin's words).
type Attribute struct {
	Key   string
	Value []byte
}

// Event is something that happened at a point of time (an annotation in
// Zipkin's words).
type Event struct {
	At   int64 // nanoseconds since 1970
	Name string
}

// Sink takes finished spans, from any goroutine, without blocking. It keeps nothing of
// a span.
type Sink interface{ Report(s *Span) }

// Collector is where spans go: a wire format and a way to send it. Append is
// called by the goroutines of requests, one at a time, and must not block;
// Send by one goroutine of the Reporter.
type Collector interface {
	// Append appends a span to a batch, which is empty at first, and returns the
	// longer batch. It keeps nothing of the span.
	Append(batch []byte, s *Span) []byte
	// Send sends a batch of so many spans, and waits until the collector has
	// taken it or it is certain that it won't be. It returns soon after cancel is
	// closed. It may change the batch and keeps nothing of it.
	Send(batch []byte, spans int, cancel <-chan struct{}) error
}
