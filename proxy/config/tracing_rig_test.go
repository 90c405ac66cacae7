// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	nethttp "net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"

	"pillion/test/rig"
)

// collected is a span as a collector got it, whatever it came as.
type collected struct {
	trace, id, parent, state, kind, name string
	failed, shared                       bool
	flags                                uint32 // of OpenTelemetry
	tags                                 map[string]string
	events                               []string
	resource                             map[string]string // of OpenTelemetry; Zipkin's local service name
}

// collector takes spans over OTLP, by gRPC and by HTTP, and in Zipkin's JSON.
type collector struct {
	addr string

	mu    sync.Mutex
	spans []collected // guarded by mu
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	mux := nethttp.NewServeMux()
	mux.HandleFunc("POST /opentelemetry.proto.collector.trace.v1.TraceService/Export", func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("trailer", "grpc-status")
		if err == nil && len(body) >= 5 && int(binary.BigEndian.Uint32(body[1:])) == len(body)-5 {
			err = c.otlp(body[5:])
		}
		if err != nil {
			t.Errorf("export: %v", err)
		}
		_, _ = w.Write(make([]byte, 5))
		w.Header().Set("grpc-status", "0")
	})
	mux.HandleFunc("POST /v1/traces", func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = c.otlp(body)
		}
		if err != nil || r.Header.Get("content-type") != "application/x-protobuf" {
			t.Errorf("export of %q: %v", r.Header.Get("content-type"), err)
		}
	})
	mux.HandleFunc("POST /api/v2/spans", func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = c.zipkin(body)
		}
		if err != nil {
			t.Errorf("zipkin: %v", err)
		}
		w.WriteHeader(202)
	})
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(nethttp.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	c.addr = s.Listener.Addr().String()
	return c
}

func (c *collector) add(s collected) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = append(c.spans, s)
}

func (c *collector) otlp(body []byte) error {
	m := &collectorv1.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(body, m); err != nil {
		return err
	}
	for _, rs := range m.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				out := collected{
					trace: hex.EncodeToString(s.GetTraceId()), id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()),
					state: s.GetTraceState(), kind: strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_"), name: s.GetName(),
					flags: s.GetFlags(), failed: s.GetStatus().GetCode() == 2, tags: pairs(s.GetAttributes()), resource: pairs(rs.GetResource().GetAttributes()),
				}
				for _, e := range s.GetEvents() {
					out.events = append(out.events, e.GetName())
				}
				if s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano() || s.GetStartTimeUnixNano() == 0 {
					return fmt.Errorf("a span from %d to %d", s.GetStartTimeUnixNano(), s.GetEndTimeUnixNano())
				}
				c.add(out)
			}
		}
	}
	return nil
}

func pairs(list []*commonv1.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range list {
		out[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return out
}

func (c *collector) zipkin(body []byte) error {
	var spans []struct {
		TraceID, ID, ParentID, Kind, Name string
		Timestamp, Duration               int64
		Shared                            bool
		LocalEndpoint                     struct{ ServiceName, IPv4 string }
		Tags                              map[string]string
		Annotations                       []struct{ Value string }
	}
	if err := json.Unmarshal(body, &spans); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	for _, s := range spans {
		out := collected{trace: s.TraceID, id: s.ID, parent: s.ParentID, kind: s.Kind, name: s.Name, shared: s.Shared,
			failed: s.Tags["error"] == "true", tags: s.Tags, resource: map[string]string{"service.name": s.LocalEndpoint.ServiceName}}
		for _, a := range s.Annotations {
			out.events = append(out.events, a.Value)
		}
		if s.Timestamp == 0 {
			return fmt.Errorf("a span without a time: %s", body)
		}
		c.add(out)
	}
	return nil
}

// of waits for n spans of the request with a mark, which is a tag of them.
func (c *collector) of(t *testing.T, who, mark string, n int) (found []collected) {
	t.Helper()
	rig.Until(t, fmt.Sprintf("%s sends %d spans of %s", who, n, mark), func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		found = nil
		for _, s := range c.spans {
			if s.tags["mark"] == mark {
				found = append(found, s)
			}
		}
		if len(found) < n {
			return fmt.Errorf("there are %d", len(found))
		}
		return nil
	})
	slices.SortFunc(found, func(a, b collected) int { return strings.Compare(a.kind+a.name, b.kind+b.name) })
	return found
}
