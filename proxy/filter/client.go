// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"strconv"
	"time"

	"pillion/proxy/http"
)

// Client sends requests of the proxy's own to a cluster, such as a filter's
// question to an authorization server. It is safe for concurrent use. Filters
// know no cluster, so whoever builds them hands one in (forward.NewClient).
type Client interface {
	// Do sends the request, waits for the whole answer, and returns within the
	// call's time or soon after its cancellation. An error says that there is
	// no whole answer; what the answer says is for the caller to judge.
	Do(c *ClientCall) (*ClientAnswer, *http.Error)
}

// ClientCall is one request. The client doesn't change it, and keeps nothing
// of it.
type ClientCall struct {
	Method, Path, Authority string
	Scheme                  string // "http" where it is empty
	// Fields are the request's fields in order. Content-Length is the client's
	// to say.
	Fields http.Fields
	// Body is sent if HasBody, also when it is empty.
	Body    []byte
	HasBody bool
	// Multi asks for HTTP/2 where the cluster leaves the choice to its
	// clients. gRPC needs it.
	Multi bool
	// MaxBody bounds the body of the answer in octets; a longer one is an error.
	MaxBody int
	// Timeout bounds the whole call; 0 doesn't.
	Timeout time.Duration
	// Cancel ends the call when it is closed; nil is never closed.
	Cancel <-chan struct{}
	// AnyOnce says that the request may be sent again, whatever its method, if a
	// connection breaks off before the first octet of an answer: it only asks.
	AnyOnce bool
}

// HTTPService is a service that requests of the proxy's own go to, as configuration
// says.
type HTTPService struct {
	Client          Client
	Authority, Path string
	// Timeout bounds a call; 0 where nothing is said.
	Timeout time.Duration
	// Fields are added to each request.
	Fields http.Fields
}

// Post returns a request with a body for the service.
func (s *HTTPService) Post(contentType, body []byte) *ClientCall {
	c := &ClientCall{Method: "POST", Path: s.Path, Authority: s.Authority, Body: body, HasBody: true, Timeout: s.Timeout}
	c.Fields.AddID(http.HeaderContentType, contentType)
	for _, f := range s.Fields.All() {
		c.Fields.Append(f)
	}
	return c
}

// AddExpectedTimeout tells a server how long it is waited for, as Envoy's router does.
func AddExpectedTimeout(f *http.Fields, timeout time.Duration) {
	if ms := timeout.Milliseconds(); ms > 0 {
		f.AddID(http.HeaderXEnvoyExpectedRqTimeoutMs, strconv.AppendInt(nil, ms, 10))
	}
}

// ClientAnswer is a final response. It shares no memory with connections.
type ClientAnswer struct {
	Status   int
	Fields   http.Fields
	Body     []byte
	Trailers http.Fields
}
