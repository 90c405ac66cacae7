// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"bytes"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"pillion/proxy/filter"
	"pillion/proxy/trace"
)

// Numbers of fields in opentelemetry/proto/trace/v1/trace.proto and common.proto.
const (
	requestResourceSpans protowire.Number = 1 // of ExportTraceServiceRequest

	resourceSpansResource   protowire.Number = 1
	resourceSpansScopeSpans protowire.Number = 2
	resourceAttributes      protowire.Number = 1
	scopeSpansScope         protowire.Number = 1
	scopeSpansSpans         protowire.Number = 2
	scopeName               protowire.Number = 1
	scopeVersion            protowire.Number = 2

	spanTraceID    protowire.Number = 1
	spanID         protowire.Number = 2
	spanState      protowire.Number = 3
	spanParent     protowire.Number = 4
	spanName       protowire.Number = 5
	spanKind       protowire.Number = 6
	spanStart      protowire.Number = 7
	spanEnd        protowire.Number = 8
	spanAttributes protowire.Number = 9
	spanEvents     protowire.Number = 11
	spanStatus     protowire.Number = 15
	spanFlags      protowire.Number = 16

	eventTime  protowire.Number = 1
	eventName  protowire.Number = 2
	statusCode protowire.Number = 3

	keyValueKey    protowire.Number = 1
	keyValueValue  protowire.Number = 2
	anyStringValue protowire.Number = 1
)

// Values of enumerations, and of the flags.
const (
	kindServer  = 2
	kindClient  = 3
	statusError = 2
	// flagSampled is the flag of W3C Trace Context, which a span's flags begin with. It is
	// known of each parent whether it is remote, and that is what the other two say.
	flagSampled       = 0x001
	flagRemoteIsKnown = 0x100
	flagRemote        = 0x200
)

// appendSpan appends a span as one of the spans of a ScopeSpans.
func appendSpan(dst []byte, s *trace.Span) []byte {
	valid(s)
	dst = appendLength(dst, scopeSpansSpans, spanSize(s))
	dst = appendBytes(dst, spanTraceID, s.TraceID[:])
	dst = appendBytes(dst, spanID, s.ID[:])
	if len(s.State) > 0 {
		dst = appendBytes(dst, spanState, s.State)
	}
	if s.Parent.IsValid() {
		dst = appendBytes(dst, spanParent, s.Parent[:])
	}
	dst = appendBytes(dst, spanName, s.Name)
	dst = protowire.AppendVarint(protowire.AppendTag(dst, spanKind, protowire.VarintType), kind(s))
	dst = protowire.AppendFixed64(protowire.AppendTag(dst, spanStart, protowire.Fixed64Type), uint64(s.Start))
	dst = protowire.AppendFixed64(protowire.AppendTag(dst, spanEnd, protowire.Fixed64Type), uint64(s.End))
	for i := range s.Attributes {
		a := &s.Attributes[i]
		dst = appendKeyValue(dst, spanAttributes, a.Key, a.Value)
	}
	for i := range s.Events {
		e := &s.Events[i]
		dst = appendLength(dst, spanEvents, eventSize(e))
		dst = protowire.AppendFixed64(protowire.AppendTag(dst, eventTime, protowire.Fixed64Type), uint64(e.At))
		dst = appendBytes(dst, eventName, e.Name)
	}
	if s.Failed {
		dst = appendLength(dst, spanStatus, statusSize)
		dst = protowire.AppendVarint(protowire.AppendTag(dst, statusCode, protowire.VarintType), statusError)
	}
	return protowire.AppendFixed32(protowire.AppendTag(dst, spanFlags, protowire.Fixed32Type), flags(s))
}

func flags(s *trace.Span) uint32 {
	if s.Remote {
		return flagSampled | flagRemoteIsKnown | flagRemote
	}
	return flagSampled | flagRemoteIsKnown
}

// valid makes UTF-8 of what a stranger may have sent otherwise: a message with anything
// else is malformed, and the collector would lose all of it.
func valid(s *trace.Span) {
	if !utf8.Valid(s.State) {
		s.State = bytes.ToValidUTF8(s.State, replacement)
	}
	if !utf8.Valid(s.Name) {
		s.Name = bytes.ToValidUTF8(s.Name, replacement)
	}
	for i := range s.Attributes {
		if a := &s.Attributes[i]; !utf8.Valid(a.Value) {
			a.Value = bytes.ToValidUTF8(a.Value, replacement)
		}
	}
}

var replacement = []byte("\uFFFD")

func kind(s *trace.Span) uint64 {
	if s.Kind == trace.Client {
		return kindClient
	}
	return kindServer
}

const statusSize = 2 // a tag and an enumeration

// spanSize is the length of a span's message.
func spanSize(s *trace.Span) int {
	n := bytesSize(spanTraceID, len(s.TraceID)) + bytesSize(spanID, len(s.ID)) + bytesSize(spanName, len(s.Name)) +
		protowire.SizeTag(spanKind) + protowire.SizeVarint(kind(s)) +
		protowire.SizeTag(spanStart) + protowire.SizeTag(spanEnd) + 2*protowire.SizeFixed64() +
		protowire.SizeTag(spanFlags) + protowire.SizeFixed32()
	if len(s.State) > 0 {
		n += bytesSize(spanState, len(s.State))
	}
	if s.Parent.IsValid() {
		n += bytesSize(spanParent, len(s.Parent))
	}
	for i := range s.Attributes {
		a := &s.Attributes[i]
		n += bytesSize(spanAttributes, keyValueSize(a.Key, a.Value))
	}
	for i := range s.Events {
		n += bytesSize(spanEvents, eventSize(&s.Events[i]))
	}
	if s.Failed {
		n += bytesSize(spanStatus, statusSize)
	}
	return n
}

func eventSize(e *trace.Event) int {
	return protowire.SizeTag(eventTime) + protowire.SizeFixed64() + bytesSize(eventName, len(e.Name))
}

// bytesSize is the length of a field that has a length of n.
func bytesSize(num protowire.Number, n int) int {
	return protowire.SizeTag(num) + protowire.SizeBytes(n)
}

// appendLength appends the tag and the length of a field that has one.
func appendLength(dst []byte, num protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.BytesType), uint64(n))
}

func appendBytes[T string | []byte](dst []byte, num protowire.Number, v T) []byte {
	return append(appendLength(dst, num, len(v)), v...)
}

func keyValueSize[T string | []byte](key string, value T) int {
	return bytesSize(keyValueKey, len(key)) + bytesSize(keyValueValue, bytesSize(anyStringValue, len(value)))
}

// appendKeyValue appends an attribute whose value is a string.
func appendKeyValue[T string | []byte](dst []byte, num protowire.Number, key string, value T) []byte {
	dst = appendLength(dst, num, keyValueSize(key, value))
	dst = appendBytes(dst, keyValueKey, key)
	dst = appendLength(dst, keyValueValue, bytesSize(anyStringValue, len(value)))
	return appendBytes(dst, anyStringValue, value)
}

// preamble is what is the same in every message: the resource, and the scope of its
// spans, each as a field.
type preamble struct{ resource, scope []byte }

// attribute is a fact about the proxy.
type attribute struct{ key, value string }

func newPreamble(resource []attribute, name, version string) preamble {
	var p preamble
	n := 0
	for _, a := range resource {
		n += bytesSize(resourceAttributes, keyValueSize(a.key, a.value))
	}
	p.resource = appendLength(nil, resourceSpansResource, n)
	for _, a := range resource {
		p.resource = appendKeyValue(p.resource, resourceAttributes, a.key, a.value)
	}
	if name != "" {
		p.scope = appendLength(nil, scopeSpansScope, bytesSize(scopeName, len(name))+bytesSize(scopeVersion, len(version)))
		p.scope = appendBytes(appendBytes(p.scope, scopeName, name), scopeVersion, version)
	}
	return p
}

// room is how much a batch keeps free at its beginning, so that it becomes a message
// where it lies: for a frame's prefix, the preamble, and three tags with their lengths.
func (p *preamble) room() int {
	const tagAndLength = 1 + 5
	return filter.GRPCPrefix + len(p.resource) + len(p.scope) + 3*tagAndLength
}

// message makes an ExportTraceServiceRequest of a batch, in its memory, with the room of
// a frame's prefix in front.
func (p *preamble) message(batch []byte) (frame []byte) {
	room := p.room()
	scopeSpans := len(p.scope) + len(batch) - room
	resourceSpans := len(p.resource) + bytesSize(resourceSpansScopeSpans, scopeSpans)
	head := make([]byte, filter.GRPCPrefix, room)
	head = append(appendLength(head, requestResourceSpans, resourceSpans), p.resource...)
	head = append(appendLength(head, resourceSpansScopeSpans, scopeSpans), p.scope...)
	return batch[room-copy(batch[room-len(head):], head):]
}
