// SPDX-License-Identifier: Apache-2.0

package http

// ServerStream is the downstream side of one exchange, as a codec offers it
// to the connection manager and the forwarder. All calls come from the
// goroutine that runs the exchange, but for ReadBody, which may run on a
// second one while a request body is streamed in parallel with the response.
type ServerStream interface {
	// Buffered reports whether ReadBody would return without waiting.
	Buffered() bool
	// Poll is Buffered after taking what has arrived.
	Poll() bool
	// ReadBody returns the next piece of the request's body, which may be
	// empty, valid until the next call, and io.EOF after the last one. Any other error is an *Error.
	ReadBody() ([]byte, error)
	// RequestTrailers returns the trailers after io.EOF; nil when none came.
	RequestTrailers() *Fields
	// Continue sends 100 Continue if the client waits for it and nothing was
	// sent yet.
	Continue() error
	// WriteInterim sends an interim response other than 100.
	WriteInterim(h *ResponseHead) error
	// WriteHead sends the response's head; with end there is no body. A codec
	// may hold it back until the first WriteBody or Flush.
	WriteHead(h *ResponseHead, end bool) error
	// WriteBody sends a piece of the body; with end it is the last one. p is
	// not kept. Small pieces may be held back until Flush.
	WriteBody(p []byte, end bool) error
	// WriteTrailers ends the body with trailer fields.
	WriteTrailers(f *Fields) error
	// Flush sends what is held back.
	Flush() error
}

// ClientStream is one request on an upstream connection, as a codec offers it
// to the forwarder. Errors are *Error with SideUpstream.
type ClientStream interface {
	// WriteHead sends the request's head; with end there is no body.
	WriteHead(h *RequestHead, end bool) error
	WriteBody(p []byte, end bool) error
	WriteTrailers(f *Fields) error
	Flush() error
	// ReadHead sends what is held back and waits for a response's head: the
	// final one, or an interim one (100 or 103), after which it must be called
	// again. Other interim responses are dropped; 101 is final.
	ReadHead(h *ResponseHead) error
	// Buffered reports whether ReadBody would return without waiting.
	Buffered() bool
	// ReadBody is as ServerStream.ReadBody, for the response.
	ReadBody() ([]byte, error)
	ResponseTrailers() *Fields
}
