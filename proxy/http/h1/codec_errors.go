// SPDX-License-Identifier: Apache-2.0

package h1

import "pillion/proxy/http"

// refuse makes the error for a request whose bytes are wrong. The
// connection must close: where the next message starts can't be known.
func refuse(status int, body, detail string) *http.Error {
	return &http.Error{Side: http.SideDownstream, Kind: http.KindProtocol, Status: status,
		Flag: http.FlagDownstreamProtocolError, Detail: detail, Body: body, Close: true}
}

// Errors of a message's syntax, in the words that Envoy's codec has for them
// (envoy: source/common/http/http1/codec_impl.cc). It has no words for most of
// what is refused here beyond Envoy's own rules; that goes under codec_error.
var (
	errSyntax         = refuse(400, "Bad Request", "http1.codec_error")
	errCharacters     = refuse(400, "Bad Request", "http1.invalid_characters")
	errBothFramings   = refuse(400, "Bad Request", "http1.content_length_and_chunked_not_allowed")
	errTransferCoding = refuse(501, "Not Implemented", "http1.invalid_transfer_encoding")
	errOption         = refuse(400, "Bad Request", "http1.connection_header_rejected")
	errAuthority      = refuse(400, "Bad Request", "http.invalid_authority")
	errTarget         = refuse(400, "Bad Request", "http1.invalid_url")
	errScheme         = refuse(400, "Bad Request", "http1.invalid_scheme")
	errVersion        = refuse(505, "HTTP Version Not Supported", "http1.codec_error")
	errHeadSize       = tooLarge("http1.headers_too_large")
	errFieldCount     = tooLarge("http1.too_many_headers")
)

// Envoy finds these three behind its codec, where it neither sets a flag for
// a protocol error nor writes a body.
var (
	errNoHost = &http.Error{Side: http.SideDownstream, Kind: http.KindProtocol, Status: 400,
		Detail: "missing_host_header", Close: true}
	errFragment = &http.Error{Side: http.SideDownstream, Kind: http.KindProtocol, Status: 400,
		Detail: "path_normalization_failed", Close: true}
	errConnect = &http.Error{Side: http.SideDownstream, Kind: http.KindNoRoute, Status: 404,
		Flag: http.FlagNoRoute, Detail: "route_not_found", Close: true}
)

func tooLarge(detail string) *http.Error {
	e := refuse(431, "Request Header Fields Too Large", detail)
	e.Kind = http.KindTooLarge
	return e
}

// errBadResponse is every way in which a response's bytes are wrong.
var errBadResponse = &http.Error{Side: http.SideUpstream, Kind: http.KindUpstreamProtocol, Retry: http.RetryByPolicy,
	Status: 502, Flag: http.FlagUpstreamProtocolError,
	Detail: "upstream_reset_before_response_started{protocol_error}",
	Body:   "upstream connect error or disconnect/reset before headers. reset reason: protocol error", GRPC: 14}
