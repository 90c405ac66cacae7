// SPDX-License-Identifier: Apache-2.0

// Package grpcweb is the filter envoy.filters.http.grpc_web: it lets clients
// that have no HTTP/2 and no trailers, such as browsers, call gRPC services
// (grpc/grpc: doc/PROTOCOL-WEB.md).
//
// The filter makes a gRPC head of the request's head. A Translator does the
// same for bodies, in pieces as they come, and Stream puts it between the
// forwarder and the client.
package grpcweb

import (
	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// The content types that clients speak. Envoy compares them as they stand.
const (
	typeWeb       = "application/grpc-web"
	typeWebProto  = "application/grpc-web+proto"
	typeText      = "application/grpc-web-text"
	typeTextProto = "application/grpc-web-text+proto"
)

var (
	valueGRPC      = []byte("application/grpc")
	valueWeb       = []byte(typeWebProto)
	valueText      = []byte(typeTextProto)
	valueZero      = []byte("0")
	valueTrailers  = []byte("trailers")
	valueIdentity  = []byte("identity")
	acceptEncoding = []byte("grpc-accept-encoding")
)

// Filter is the filter; it has no settings.
type Filter struct{}

// New returns the filter.
func New() *Filter { return &Filter{} }

// OnRequest makes the head of a gRPC-Web request one of gRPC. The length of
// the body goes, since base64 changes it and gRPC has none.
func (*Filter) OnRequest(ex *http.Exchange) filter.Status {
	fields := &ex.Req.Fields
	text, web := speaks(fields, http.HeaderContentType)
	if !web {
		return filter.Continue
	}
	ex.GRPC = true
	ex.GRPCWeb = http.GRPCWeb{On: true, TextRequest: text}
	// What the client wants to hear is what it accepts, whatever it speaks.
	ex.GRPCWeb.TextResponse, _ = speaks(fields, http.HeaderAccept)
	fields.DelID(http.HeaderContentLength)
	if ex.Req.Framing.Kind == http.BodyLength {
		ex.Req.Framing = http.Framing{Kind: http.BodyStream}
	}
	fields.SetID(http.HeaderContentType, valueGRPC)
	fields.SetID(http.HeaderTE, valueTrailers)
	id := http.LookupHeader(acceptEncoding)
	if _, ok := fields.Lookup(id, acceptEncoding); !ok {
		fields.Set(id, acceptEncoding, valueIdentity)
	}
	return filter.Continue
}

// speaks reports whether a field holds a type of gRPC-Web, and whether that is
// one in base64.
func speaks(fields *http.Fields, id http.HeaderID) (text, web bool) {
	v, _ := fields.Get(id)
	switch string(v) {
	case typeWeb, typeWebProto:
		return false, true
	case typeText, typeTextProto:
		return true, true
	}
	return false, false
}

// Wrap implements filter.StreamWrapper.
func (*Filter) Wrap(ex *http.Exchange, down http.ServerStream) http.ServerStream {
	if !ex.GRPCWeb.On {
		return down
	}
	return &Stream{ServerStream: down, t: NewTranslator(ex)}
}
