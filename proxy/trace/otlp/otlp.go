// SPDX-License-Identifier: Apache-2.0

// Package otlp sends spans to a collector by OpenTelemetry's protocol, over gRPC or
// HTTP (https://opentelemetry.io/docs/specs/otlp/).
//
// A span is appended to a message as it ends, so nothing is built of it in between and
// OpenTelemetry's SDK, which makes objects of each span, isn't needed.
package otlp

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/trace"
)

const (
	// exportPath is the method of opentelemetry.proto.collector.trace.v1.TraceService.
	exportPath = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	// maxAnswer bounds what a collector may answer, in octets.
	maxAnswer = 64 << 10
	// defaultTimeout is how long a collector may take where configuration doesn't say
	// (OTEL_EXPORTER_OTLP_TIMEOUT's default). With Envoy it may take for ever.
	defaultTimeout = 10 * time.Second
)

// Collector is one collector. It is immutable, and implements trace.Collector.
type Collector struct {
	preamble preamble
	// One of grpc and http is where messages go.
	grpc    *filter.GRPCService
	http    *filter.HTTPService
	sampler Sampler
}

// Sampler is who decides what is recorded in the place of the connection manager.
type Sampler uint8

// The samplers.
const (
	NoSampler Sampler = iota
	AlwaysOn
)

// Sampler returns the sampler that the configuration asks for.
func (c *Collector) Sampler() Sampler { return c.sampler }

// Append implements trace.Collector.
func (c *Collector) Append(batch []byte, s *trace.Span) []byte {
	if len(batch) == 0 {
		room := c.preamble.room()
		batch = slices.Grow(batch, room)[:room]
	}
	return appendSpan(batch, s)
}

// Send implements trace.Collector.
func (c *Collector) Send(batch []byte, _ int, cancel <-chan struct{}) error {
	frame := c.preamble.message(batch)
	if c.grpc != nil {
		a, err := send(c.grpc.Client, c.grpc.Call(exportPath, frame, noExchange), cancel)
		if err != nil {
			return err
		}
		answer, err := filter.GRPCAnswer(a)
		if err != nil {
			return err
		}
		return rejected(answer)
	}
	a, err := send(c.http.Client, c.http.Post(protobufType, frame[filter.GRPCPrefix:]), cancel)
	if err != nil {
		return err
	}
	if a.Status < 200 || a.Status > 299 {
		return fmt.Errorf("status %d", a.Status)
	}
	return rejected(a.Body)
}

// noExchange is what metadata sees: spans of many exchanges are sent at once.
var noExchange = &http.Exchange{Conn: &http.ConnInfo{}}

func send(to filter.Client, call *filter.ClientCall, cancel <-chan struct{}) (*filter.ClientAnswer, error) {
	call.MaxBody, call.Cancel = maxAnswer, cancel
	a, failed := to.Do(call)
	if failed != nil {
		return nil, failed
	}
	return a, nil
}

var protobufType = []byte("application/x-protobuf")

// Numbers of fields in opentelemetry/proto/collector/trace/v1/trace_service.proto.
const (
	answerPartial   protowire.Number = 1
	partialRejected protowire.Number = 1
	partialMessage  protowire.Number = 2
)

// rejected is the error of an answer that says that spans were refused. What is no such
// message says nothing: over HTTP a collector may answer in JSON.
func rejected(answer []byte) error {
	partial, _ := field(answer, answerPartial, protowire.BytesType)
	n, _ := field(partial, partialRejected, protowire.VarintType)
	count, size := protowire.ConsumeVarint(n)
	if size < 0 || count == 0 {
		return nil
	}
	why, _ := field(partial, partialMessage, protowire.BytesType)
	if len(why) == 0 {
		return fmt.Errorf("%d spans were refused", count)
	}
	return fmt.Errorf("%d spans were refused: %q", count, why)
}

// field returns the last field of a number and type in a message: its content of one
// that has a length, its encoding of any other.
func field(message []byte, num protowire.Number, typ protowire.Type) (value []byte, err error) {
	for len(message) > 0 {
		n, t, size := protowire.ConsumeTag(message)
		if size < 0 {
			return nil, errNoMessage
		}
		message = message[size:]
		if size = protowire.ConsumeFieldValue(n, t, message); size < 0 {
			return nil, errNoMessage
		}
		if n == num && t == typ {
			if value = message[:size]; t == protowire.BytesType {
				value, _ = protowire.ConsumeBytes(value)
			}
		}
		message = message[size:]
	}
	return value, nil
}

var errNoMessage = errors.New("not a message of protobuf")
