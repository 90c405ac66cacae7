// SPDX-License-Identifier: Apache-2.0

package h1

import "pillion/proxy/http"

// Persist tells which Connection option a head carries.
type Persist uint8

// The options.
const (
	PersistDefault   Persist = iota // no line: what the protocol version implies
	PersistClose                    // "Connection: close"
	PersistKeepAlive                // "Connection: keep-alive", for HTTP/1.0
)

// StripRequestHop removes the fields that belong to the connection the
// request came on (RFC 9110 section 7.6.1): Connection and what it lists,
// Keep-Alive, Proxy-Connection, Upgrade, and TE but for "trailers".
// Content-Length and Transfer-Encoding stay: the writer replaces them in
// place.
func StripRequestHop(h *http.RequestHead) {}

// StripResponseHop is StripRequestHop for responses.
func StripResponseHop(h *http.ResponseHead) {}

// ResponseFraming chooses the framing of a response to a request of the given
// method and version. end tells that no body will be written.
func ResponseFraming(method http.Method, client http.Protocol, h *http.ResponseHead, end bool) http.Framing {
	return http.Framing{}
}

// RequestFraming chooses the framing of a request on an HTTP/1.1 connection.
// end tells that no body will be written.
func RequestFraming(h *http.RequestHead, end bool) http.Framing { return http.Framing{} }
