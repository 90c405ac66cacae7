// SPDX-License-Identifier: Apache-2.0

package h1

import "pillion/proxy/http"

// Persist tells which Connection option a head carries.
type Persist uint8

// The options.
const (
	PersistDefault   Persist = iota // no line: what the protocol version implies
	PersistClose                    // "connection: close"
	PersistKeepAlive                // "connection: keep-alive", for HTTP/1.0
)

// RequestFraming chooses the framing of a request on an HTTP/1.1 connection.
// end tells that no body will be written.
func RequestFraming(h *http.RequestHead, end bool) http.Framing {
	if !end {
		if h.Framing.Kind == http.BodyLength {
			return h.Framing
		}
		return http.Framing{Kind: http.BodyChunked}
	}
	if h.Framing.Kind == http.BodyLength {
		return http.Framing{Kind: http.BodyLength}
	}
	// A length of zero is said where a body would be expected (RFC 9110
	// section 8.6), for the methods for which Envoy does.
	switch h.Method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodTrace, http.MethodConnect:
		return http.Framing{Kind: http.BodyNone}
	}
	return http.Framing{Kind: http.BodyLength}
}

// ResponseFraming chooses the framing of a response to a request of the given
// method and version. end tells that no body will be written.
//
// Its BodyNone may come with a Length: that of the body that HEAD leaves out.
func ResponseFraming(method http.Method, client http.Protocol, h *http.ResponseHead, end bool) http.Framing {
	switch {
	case h.Status < 200, h.Status == 204, h.Status == 304,
		method == http.MethodConnect && h.Status < 300:
		return http.Framing{Kind: http.BodyNone}
	case method == http.MethodHead:
		if h.Framing.Kind == http.BodyLength {
			return http.Framing{Kind: http.BodyNone, Length: h.Framing.Length}
		}
		return http.Framing{Kind: http.BodyNone}
	case end:
		return http.Framing{Kind: http.BodyLength}
	case h.Framing.Kind == http.BodyLength:
		return h.Framing
	case client == http.HTTP10:
		return http.Framing{Kind: http.BodyClose}
	}
	return http.Framing{Kind: http.BodyChunked}
}
