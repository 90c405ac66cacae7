// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"golang.org/x/net/http2"

	"pillion/proxy/http"
)

// connError ends a connection (RFC 9113 section 5.4.1). Values are immutable.
type connError struct {
	code   http2.ErrCode
	reason string
}

func (e *connError) Error() string { return e.code.String() + ": " + e.reason }

// Errors of the connection.
var (
	errHpackInt      = &connError{http2.ErrCodeCompression, "an integer of a header block is malformed"}
	errHpackIndex    = &connError{http2.ErrCodeCompression, "a header block names an entry that there is none of"}
	errHpackString   = &connError{http2.ErrCodeCompression, "a string of a header block is cut off"}
	errHpackHuffman  = &connError{http2.ErrCodeCompression, "a string of a header block breaks the Huffman code"}
	errTableUpdate   = &connError{http2.ErrCodeCompression, "a header block resizes the table where or beyond what it may"}
	errFrameSize     = &connError{http2.ErrCodeFrameSize, "a frame has a wrong size"}
	errPreface       = &connError{http2.ErrCodeProtocol, "the connection preface is not that of HTTP/2"}
	errNoSettings    = &connError{http2.ErrCodeProtocol, "the first frame is no SETTINGS"}
	errStreamZero    = &connError{http2.ErrCodeProtocol, "a frame is on the wrong one of stream and connection"}
	errStreamID      = &connError{http2.ErrCodeProtocol, "a stream identifier is not that of a new or open stream"}
	errStreamClosed  = &connError{http2.ErrCodeStreamClosed, "a frame came on a closed stream"}
	errPadding       = &connError{http2.ErrCodeProtocol, "there is more padding than frame"}
	errContinuation  = &connError{http2.ErrCodeProtocol, "a header block is not continued, or none was begun"}
	errPush          = &connError{http2.ErrCodeProtocol, "a push was promised that nobody wants"}
	errSettingValue  = &connError{http2.ErrCodeProtocol, "a setting has a value that it can't have"}
	errWindowSetting = &connError{http2.ErrCodeFlowControl, "the initial window is larger than any may be"}
	errWindowSize    = &connError{http2.ErrCodeFlowControl, "the window of the connection was overrun or is too large"}
	errZeroIncrement = &connError{http2.ErrCodeProtocol, "a window is updated by nothing"}
	errFlood         = &connError{http2.ErrCodeEnhanceYourCalm, "too many frames that do nothing"}
	errResetFlood    = &connError{http2.ErrCodeEnhanceYourCalm, "too many streams are reset"}
	errBlockSize     = &connError{http2.ErrCodeEnhanceYourCalm, "a header block is too large"}
	errUnread        = &connError{http2.ErrCodeEnhanceYourCalm, "replies are asked for and not read"}
)

// Failures of a stream on its way to a host. Texts and flags are Envoy's
// (source/common/http/utility.cc, source/common/router/router.cc).
var (
	errUpReset = &http.Error{Side: http.SideUpstream, Kind: http.KindStreamReset, Retry: http.RetryByPolicy, Status: 503,
		Flag: http.FlagUpstreamRemoteReset, Detail: "upstream_reset_before_response_started{remote_reset}",
		Body: "upstream connect error or disconnect/reset before headers. reset reason: remote reset", GRPC: 14}
	errUpRefused = &http.Error{Side: http.SideUpstream, Kind: http.KindRefused, Retry: http.RetryAlways, Status: 503,
		Flag: http.FlagUpstreamRemoteReset, Detail: "upstream_reset_before_response_started{remote_refused_stream_reset}",
		Body: "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset", GRPC: 14}
	errUpClosed = &http.Error{Side: http.SideUpstream, Kind: http.KindReset, Retry: http.RetryByPolicy, Status: 503,
		Flag: http.FlagUpstreamConnTermination, Detail: "upstream_reset_before_response_started{connection_termination}",
		Body: "upstream connect error or disconnect/reset before headers. reset reason: connection termination", GRPC: 14}
	// errUpUnused: a connection that had been idle turned out to be closed.
	errUpUnused = &http.Error{Side: http.SideUpstream, Kind: http.KindPoolReset, Retry: http.RetryByPolicy, Status: 503,
		Flag: errUpClosed.Flag, Detail: errUpClosed.Detail, Body: errUpClosed.Body, GRPC: 14}
	errUpProtocol = &http.Error{Side: http.SideUpstream, Kind: http.KindUpstreamProtocol, Retry: http.RetryByPolicy, Status: 502,
		Flag: http.FlagUpstreamProtocolError, Detail: "upstream_reset_before_response_started{protocol_error}",
		Body: "upstream connect error or disconnect/reset before headers. reset reason: protocol error", GRPC: 14}
	errUpLate = &http.Error{Side: http.SideUpstream, Kind: http.KindTimeout, Retry: http.RetryByPolicy, Status: 504,
		Flag: http.FlagUpstreamRequestTimeout, Detail: "response_timeout", Body: "upstream request timeout", GRPC: 4}

	errDownReset = &http.Error{Side: http.SideDownstream, Kind: http.KindClientGone,
		Flag: http.FlagDownstreamConnTermination, Detail: "http2.remote_reset"}
	errDownGone = &http.Error{Side: http.SideDownstream, Kind: http.KindClientGone,
		Flag: http.FlagDownstreamConnTermination, Detail: "downstream_remote_disconnect"}
	errDownProtocol = &http.Error{Side: http.SideDownstream, Kind: http.KindPayload,
		Flag: http.FlagDownstreamProtocolError, Detail: "http2.violation.of.messaging.rule"}
	errDownLate = &http.Error{Side: http.SideDownstream, Kind: http.KindTimeout, Status: 408,
		Detail: "request_overall_timeout", Body: "request timeout"}
)
