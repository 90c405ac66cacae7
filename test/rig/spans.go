// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	nethttp "net/http"
	"slices"
	"strings"
	"sync"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a span as a collector got it, whatever it came as.
type Span struct {
	By                            string // OTLP or Zipkin
	Trace, ID, Parent, Kind, Name string // Kind is CLIENT or SERVER
	State                         string // tracestate
	Tags                          map[string]string
	Events                        []string // their names, in order
	Failed                        bool     // OTLP's status, Zipkin's tag error
	Shared                        bool     // of Zipkin
	Flags                         uint32   // of OTLP
	Service                       string   // service.name of the resource, or of the local endpoint
	Peer                          string   // the address that the message came from
}

// SpanCollector takes spans over OTLP, by gRPC and by HTTP, and in Zipkin's JSON. It is an HTTP
// handler, for a server that takes HTTP/2 in the clear where there is gRPC, and safe for
// concurrent use.
type SpanCollector struct {
	mu    sync.Mutex
	spans []Span   // guarded by mu
	wrong []string // guarded by mu; why messages weren't taken
}

// ServeHTTP implements http.Handler.
func (c *SpanCollector) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	body, err := io.ReadAll(r.Body)
	var spans []Span
	switch {
	case err != nil:
	case r.URL.Path == "/opentelemetry.proto.collector.trace.v1.TraceService/Export":
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("trailer", "grpc-status")
		if spans, err = grpcSpans(body); err == nil {
			_, err = w.Write(make([]byte, 5)) // an empty message
		}
		w.Header().Set("grpc-status", "0")
	case r.URL.Path == "/v1/traces":
		if typ := r.Header.Get("content-type"); typ != "application/x-protobuf" {
			err = fmt.Errorf("the content-type is %q", typ)
		} else {
			spans, err = otlpSpans(body)
		}
	case r.URL.Path == "/api/v2/spans":
		if spans, err = zipkinSpans(body); err == nil {
			w.WriteHeader(nethttp.StatusAccepted)
		}
	default:
		err = errors.New("nobody is here")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.wrong = append(c.wrong, fmt.Sprintf("%s %s of %s: %v", r.Method, r.URL.Path, r.RemoteAddr, err))
	}
	for i := range spans {
		spans[i].Peer = r.RemoteAddr
	}
	c.spans = append(c.spans, spans...)
}

// Trace returns the spans of a trace so far, and why messages weren't taken.
func (c *SpanCollector) Trace(id string) (spans []Span, wrong []string) {
	return c.Spans(func(s *Span) bool { return s.Trace == id })
}

// Spans returns the spans so far that which picks, and why messages weren't taken.
func (c *SpanCollector) Spans(which func(*Span) bool) (spans []Span, wrong []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.spans {
		if which(&c.spans[i]) {
			spans = append(spans, c.spans[i])
		}
	}
	return spans, slices.Clone(c.wrong)
}

// grpcSpans reads a call of gRPC.
func grpcSpans(body []byte) ([]Span, error) {
	if len(body) < 5 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 || body[0] != 0 {
		return nil, fmt.Errorf("%d octets aren't one message", len(body))
	}
	return otlpSpans(body[5:])
}

// otlpSpans reads an ExportTraceServiceRequest.
func otlpSpans(body []byte) (out []Span, err error) {
	m := &collectorv1.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, err
	}
	for _, rs := range m.GetResourceSpans() {
		service := spanTags(rs.GetResource().GetAttributes())["service.name"]
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				if s.GetStartTimeUnixNano() == 0 || s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano() {
					return nil, fmt.Errorf("%s is from %d to %d", s.GetName(), s.GetStartTimeUnixNano(), s.GetEndTimeUnixNano())
				}
				span := Span{By: "OTLP", Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
					State: s.GetTraceState(), Kind: strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_"), Name: s.GetName(), Tags: spanTags(s.GetAttributes()),
					Failed: s.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR, Flags: s.GetFlags(), Service: service}
				for _, e := range s.GetEvents() {
					span.Events = append(span.Events, e.GetName())
				}
				out = append(out, span)
			}
		}
	}
	return out, nil
}

func spanTags(list []*commonv1.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range list {
		out[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return out
}

// zipkinSpans reads a list of Zipkin's second version.
func zipkinSpans(body []byte) (out []Span, err error) {
	var spans []struct {
		TraceID, ID, ParentID, Kind, Name string
		Timestamp                         int64
		Shared                            bool
		Annotations                       []struct{ Value string }
		LocalEndpoint                     struct{ ServiceName string }
		Tags                              map[string]string
	}
	if err := json.Unmarshal(body, &spans); err != nil {
		return nil, fmt.Errorf("%w: %s", err, body)
	}
	for _, s := range spans {
		if s.Timestamp == 0 {
			return nil, fmt.Errorf("%s has no time", s.Name)
		}
		span := Span{By: "Zipkin", Trace: s.TraceID, ID: s.ID, Parent: s.ParentID, Kind: s.Kind, Name: s.Name, Tags: s.Tags, Failed: s.Tags["error"] == "true",
			Shared: s.Shared, Service: s.LocalEndpoint.ServiceName}
		for _, a := range s.Annotations {
			span.Events = append(span.Events, a.Value)
		}
		out = append(out, span)
	}
	return out, nil
}
