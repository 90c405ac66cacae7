// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"pillion/proxy/http"
)

// GRPCPrefix is the length of what stands before a message in its frame (gRPC over
// HTTP/2, "Length-Prefixed-Message").
const GRPCPrefix = 5

var (
	grpcContentType = []byte("application/grpc")
	grpcTrailers    = []byte("trailers")
)

// GRPCCall returns a unary call of path, whose frame is GRPCPrefix octets of room and
// then the message, uncompressed. timeout, unless it is 0, is told to the server, too.
// The caller adds what it likes.
func GRPCCall(path, authority string, frame []byte, timeout time.Duration) *ClientCall {
	frame[0] = 0
	binary.BigEndian.PutUint32(frame[1:GRPCPrefix], uint32(len(frame)-GRPCPrefix))
	c := &ClientCall{Method: "POST", Path: path, Authority: authority, Body: frame, HasBody: true, Multi: true, Timeout: timeout}
	c.Fields.AddID(http.HeaderTE, grpcTrailers)
	if timeout > 0 {
		c.Fields.AddID(http.HeaderGRPCTimeout, http.AppendGRPCTimeout(nil, timeout))
	}
	c.Fields.AddID(http.HeaderContentType, grpcContentType)
	return c
}

// Value is a text of configuration with what is substituted in it.
type Value interface {
	Append(dst []byte, ex *http.Exchange) []byte
}

// GRPCService is a service of gRPC that calls of the proxy's own go to, as configuration
// says. Immutable.
type GRPCService struct {
	Client    Client
	Authority string
	// Timeout bounds a call; 0 doesn't.
	Timeout time.Duration
	// Metadata is added to each call.
	Metadata []Metadata
	// Plain leaves out x-envoy-internal (skip_envoy_headers).
	Plain bool
}

// Metadata is a field whose value may depend on what it is sent for.
type Metadata struct {
	Name  []byte
	Value Value
}

var grpcInternal = []byte("true")

// Call returns a unary call of path for an exchange, as GRPCCall.
func (s *GRPCService) Call(path string, frame []byte, ex *http.Exchange) *ClientCall {
	c := GRPCCall(path, s.Authority, frame, s.Timeout)
	if !s.Plain {
		c.Fields.AddID(http.HeaderXEnvoyInternal, grpcInternal)
	}
	AddExpectedTimeout(&c.Fields, s.Timeout)
	for _, m := range s.Metadata {
		c.Fields.Add(m.Name, m.Value.Append(nil, ex))
	}
	return c
}

// errGRPCFrame: what was answered isn't exactly one message, uncompressed.
var errGRPCFrame = errors.New("the answer isn't one message")

// GRPCAnswer takes the message out of an answer. An error says that it isn't exactly
// one whole message of a call that ended well.
func GRPCAnswer(a *ClientAnswer) ([]byte, error) {
	if a.Status != 200 {
		return nil, fmt.Errorf("status %d", a.Status)
	}
	from := &a.Trailers
	code, known := from.GRPCStatus()
	if !known {
		from = &a.Fields
		code, known = from.GRPCStatus()
	}
	if !known {
		return nil, errors.New("the answer has no grpc-status")
	}
	if code != http.GRPCOK {
		message, _ := from.Get(http.HeaderGRPCMessage)
		return nil, fmt.Errorf("grpc-status %d %s", code, message)
	}
	p := a.Body
	if len(p) < GRPCPrefix || p[0] != 0 || uint64(binary.BigEndian.Uint32(p[1:])) != uint64(len(p)-GRPCPrefix) {
		return nil, errGRPCFrame
	}
	return p[GRPCPrefix:], nil
}
