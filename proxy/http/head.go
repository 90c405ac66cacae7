// SPDX-License-Identifier: Apache-2.0

package http

// Method numbers the methods of RFC 9110 section 9 that the proxy treats
// specially; any other token is MethodOther.
type Method uint8

// The numbered methods.
const (
	MethodOther Method = iota
	MethodGet
	MethodHead
	MethodPost
	MethodPut
	MethodDelete
	MethodConnect
	MethodOptions
	MethodTrace
	MethodPatch
)

// LookupMethod returns the number of a method token, which is case-sensitive
// (RFC 9110 section 9.1).
func LookupMethod(m []byte) Method {
	switch string(m) {
	case "GET":
		return MethodGet
	case "HEAD":
		return MethodHead
	case "POST":
		return MethodPost
	case "PUT":
		return MethodPut
	case "DELETE":
		return MethodDelete
	case "CONNECT":
		return MethodConnect
	case "OPTIONS":
		return MethodOptions
	case "TRACE":
		return MethodTrace
	case "PATCH":
		return MethodPatch
	}
	return MethodOther
}

// Idempotent reports whether a request may be sent again when it is known
// that no response byte came (RFC 9110 section 9.2.2).
func (m Method) Idempotent() bool {
	switch m {
	case MethodGet, MethodHead, MethodPut, MethodDelete, MethodOptions, MethodTrace:
		return true
	}
	return false
}

// Protocol is the version a side speaks.
type Protocol uint8

// The protocols.
const (
	ProtocolUnknown Protocol = iota
	HTTP10
	HTTP11
	HTTP2
)

// String returns the name that access logs print.
func (p Protocol) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	case HTTP2:
		return "HTTP/2"
	}
	return "-"
}

// BodyKind tells how a message's body is delimited.
type BodyKind uint8

// The kinds of framing. HTTP/2 bodies are BodyStream; with a content-length
// they are BodyLength.
const (
	BodyNone    BodyKind = iota // no body follows the head
	BodyLength                  // exactly Length octets
	BodyChunked                 // chunked transfer coding, HTTP/1.1
	BodyClose                   // a response that ends when the connection does
	BodyStream                  // ends with the stream, HTTP/2
)

// Framing is the kind and, for BodyLength, the size in octets.
type Framing struct {
	Kind   BodyKind
	Length int64
}

// RequestHead is the head of one request. All slices alias the read buffer,
// the exchange's scratch space or configuration and are read-only.
type RequestHead struct {
	Method    Method
	RawMethod []byte // the token as received
	// Scheme is "http" or "https": from an absolute-form target, else of the listener.
	Scheme []byte
	// Authority is the effective host with its port, if it had one: of an
	// absolute-form target, else of the Host field (RFC 9112 section 3.2.2).
	// The Host line itself is not kept in Fields; the codec writes it from here.
	Authority []byte
	// Path is the path with its query. "*" for OPTIONS *.
	Path     []byte
	Protocol Protocol
	// HostIndex is the position among the fields at which the Host line
	// stood, and HostName its name in the case received (HTTP/1 keeps both).
	HostIndex int
	HostName  []byte
	// AbsoluteForm is set when the target was a full URI, as a forward
	// proxy's clients send it.
	AbsoluteForm bool
	// KeepAlive tells whether the sender wants the connection kept.
	KeepAlive bool
	// Expect100 is set when the client waits for "100 Continue".
	Expect100 bool
	// Upgrade is the requested protocol when Connection lists upgrade, else nil.
	Upgrade []byte
	// ExtendedConnect is set when Upgrade came as an extended CONNECT of
	// HTTP/2 (RFC 8441), which codecs turn into the Upgrade of a GET.
	ExtendedConnect bool
	Framing         Framing
	Fields          Fields
}

// Reset empties the head and keeps its memory.
func (h *RequestHead) Reset() {
	f := h.Fields
	f.Reset()
	*h = RequestHead{Fields: f}
}

// ResponseHead is the head of one response; ownership as in RequestHead.
type ResponseHead struct {
	Status   int
	Reason   []byte // HTTP/1 only, may be empty
	Protocol Protocol
	// KeepAlive tells whether the sender keeps its connection.
	KeepAlive bool
	// Upgrade is the protocol of a 101 response, else nil.
	Upgrade []byte
	Framing Framing
	Fields  Fields
}

// Reset empties the head and keeps its memory.
func (h *ResponseHead) Reset() {
	f := h.Fields
	f.Reset()
	*h = ResponseHead{Fields: f}
}

// ParseStatus reads a status code: three digits, the first of which is not 0.
func ParseStatus(v []byte) (status int, ok bool) {
	if len(v) != 3 || v[0] < '1' || v[0] > '9' || v[1] < '0' || v[1] > '9' || v[2] < '0' || v[2] > '9' {
		return 0, false
	}
	return int(v[0]-'0')*100 + int(v[1]-'0')*10 + int(v[2]-'0'), true
}
