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
	"google.golang.org/protobuf/proto"
)

// Span is a span as a collector got it, whatever it came as.
type Span struct {
	By                            string // OTLP or Zipkin
	Trace, ID, Parent, Kind, Name string // Kind is CLIENT or SERVER
	Tags                          map[string]string
	Service                       string // service.name of the resource, or of the local endpoint
	Peer                          string // the address that the message came from
}

// SpanCollector takes spans over OTLP by gRPC, and in Zipkin's JSON. It is an HTTP
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
		if spans, err = otlpSpans(body); err == nil {
			_, err = w.Write(make([]byte, 5)) // an empty message
		}
		w.Header().Set("grpc-status", "0")
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
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Trace == id {
			spans = append(spans, s)
		}
	}
	return spans, slices.Clone(c.wrong)
}

// otlpSpans reads a call of gRPC.
func otlpSpans(body []byte) (out []Span, err error) {
	if len(body) < 5 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 || body[0] != 0 {
		return nil, fmt.Errorf("%d octets aren't one message", len(body))
	}
	m := &collectorv1.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(body[5:], m); err != nil {
		return nil, err
	}
	for _, rs := range m.GetResourceSpans() {
		service := spanTags(rs.GetResource().GetAttributes())["service.name"]
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				if s.GetStartTimeUnixNano() == 0 || s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano() {
					return nil, fmt.Errorf("%s is from %d to %d", s.GetName(), s.GetStartTimeUnixNano(), s.GetEndTimeUnixNano())
				}
				out = append(out, Span{By: "OTLP", Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
					Kind: strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_"), Name: s.GetName(), Tags: spanTags(s.GetAttributes()), Service: service})
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
		out = append(out, Span{By: "Zipkin", Trace: s.TraceID, ID: s.ID, Parent: s.ParentID, Kind: s.Kind, Name: s.Name, Tags: s.Tags, Service: s.LocalEndpoint.ServiceName})
	}
	return out, nil
}
