// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"errors"
	"io"
	"os"

	"pillion/proxy/http"
)

// Failures of a connection, as opposed to those of a message's syntax. Texts
// and flags are Envoy's (source/common/http/utility.cc and
// source/common/router/router.cc).
var (
	errClientGone = &http.Error{Side: http.SideDownstream, Kind: http.KindClientGone,
		Flag: http.FlagDownstreamConnTermination, Detail: "downstream_remote_disconnect", Close: true}
	errClientTimeout = &http.Error{Side: http.SideDownstream, Kind: http.KindTimeout, Status: 408,
		Flag: http.FlagDownstreamProtocolError, Detail: "request_header_timeout", Body: "Request Timeout", Close: true}
	errHeadTooLarge = &http.Error{Side: http.SideDownstream, Kind: http.KindTooLarge, Status: 431,
		Flag: http.FlagDownstreamProtocolError, Detail: "request_headers_too_large", Body: "Request Header Fields Too Large", Close: true}
	// errRequestTimeout: the request's body took longer than it may.
	errRequestTimeout = &http.Error{Side: http.SideDownstream, Kind: http.KindTimeout, Status: 408,
		Detail: "request_overall_timeout", Body: "request timeout", Close: true}

	errUpstreamClosed = &http.Error{Side: http.SideUpstream, Kind: http.KindReset, Retry: http.RetryByPolicy, Status: 503,
		Flag:   http.FlagUpstreamConnTermination,
		Detail: "upstream_reset_before_response_started{connection_termination}",
		Body:   "upstream connect error or disconnect/reset before headers. reset reason: connection termination", GRPC: 14}
	// ErrUpstreamUnused: a reused connection turned out to be closed before
	// one byte of an answer came.
	ErrUpstreamUnused = &http.Error{Side: http.SideUpstream, Kind: http.KindPoolReset, Retry: http.RetryByPolicy, Status: 503,
		Flag: errUpstreamClosed.Flag, Detail: errUpstreamClosed.Detail, Body: errUpstreamClosed.Body, GRPC: 14}
	errUpstreamHeadCut = &http.Error{Side: http.SideUpstream, Kind: http.KindUpstreamProtocol, Retry: http.RetryByPolicy, Status: 502,
		Flag: http.FlagUpstreamProtocolError, Detail: "upstream_reset_before_response_started{protocol_error}",
		Body: "upstream connect error or disconnect/reset before headers. reset reason: protocol error", GRPC: 14}
	errUpstreamCut = &http.Error{Side: http.SideUpstream, Kind: http.KindReset, Retry: http.RetryNever,
		Flag: http.FlagUpstreamConnTermination, Detail: "upstream_reset_after_response_started{connection_termination}", Close: true, GRPC: 14}
	errUpstreamLate = &http.Error{Side: http.SideUpstream, Kind: http.KindTimeout, Retry: http.RetryByPolicy, Status: 504,
		Flag: http.FlagUpstreamRequestTimeout, Detail: "response_timeout", Body: "upstream request timeout", GRPC: 4}
	errUpstreamBody = &http.Error{Side: http.SideUpstream, Kind: http.KindUpstreamProtocol, Retry: http.RetryNever,
		Flag: http.FlagUpstreamProtocolError, Detail: "upstream_reset_after_response_started{protocol_error}", Close: true, GRPC: 14}
	errInterimFlood = &http.Error{Side: http.SideUpstream, Kind: http.KindUpstreamProtocol, Retry: http.RetryNever, Status: 502,
		Flag: http.FlagUpstreamProtocolError, Detail: "upstream_reset_before_response_started{protocol_error}",
		Body: "upstream connect error or disconnect/reset before headers. reset reason: protocol error", GRPC: 14}
)

// isTimeout reports whether err is an expired deadline.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isEOF reports whether err is the orderly end of the stream.
func isEOF(err error) bool { return err == io.EOF }
