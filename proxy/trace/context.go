// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"math/rand/v2"

	"pillion/proxy/http"
)

// Context is where a request stands in its trace. What is read of a request
// names the span of whoever sent it; what is written names ours.
type Context struct {
	TraceID TraceID
	SpanID  SpanID
	// ParentID is the span before SpanID, which only B3 tells; zero where it isn't
	// known.
	ParentID SpanID
	// Sampled says that the trace is recorded.
	Sampled bool
	// State is the tracestate, empty for none.
	State []byte
}

// Propagation is a set of forms in which a request tells of its trace.
type Propagation uint8

// The forms.
const (
	// W3C is traceparent and tracestate (W3C Trace Context).
	W3C Propagation = 1 << iota
	// B3 is Zipkin's: the fields x-b3-…, or all in one, b3, where the request came
	// with that (https://github.com/openzipkin/b3-propagation).
	B3
)

// found is what a request tells of its trace.
type found struct {
	Context
	// traced: the context has a trace and a span; else at most a decision.
	traced bool
	// decided: Sampled is somebody's decision.
	decided bool
	// single: it came as the one field b3.
	single bool
	// broken: what is there can't be read.
	broken bool
}

// read reads what a request tells of its trace. B3 comes first where both are
// read, as with Envoy's USE_B3_WITH_W3C_PROPAGATION.
func (p Propagation) read(fields *http.Fields) (f found) {
	if p&B3 != 0 {
		if f = readB3(fields); f.traced || f.decided || f.broken {
			return f
		}
	}
	if p&W3C != 0 {
		return readW3C(fields)
	}
	return f
}

// write makes a request tell of c. single asks for B3's one field. Values live in
// the exchange's scratch space.
func (p Propagation) write(ex *http.Exchange, c *Context, single bool) {
	if p&B3 != 0 {
		if single {
			writeB3Single(ex, c)
		} else {
			writeB3(ex, c)
		}
	}
	if p&W3C != 0 {
		writeW3C(ex, c)
	}
}

// parseHex reads len(v)/2 octets of hexadecimal digits into dst, which has that
// length. Capital letters are only right where upper is set.
func parseHex(dst, v []byte, upper bool) bool {
	if len(v) != 2*len(dst) {
		return false
	}
	var bad byte
	for i := range dst {
		hi, lo := hexValue(v[2*i], upper), hexValue(v[2*i+1], upper)
		bad |= (hi | lo) & 0xf0
		dst[i] = hi<<4 | lo&0x0f
	}
	return bad == 0
}

// hexValue is the value of a digit, above 15 for what is none.
func hexValue(c byte, upper bool) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case upper && 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// newTraceID returns a random trace ID, of 64 bits if it is short.
func newTraceID(short bool) (id TraceID) {
	if !short {
		binary.BigEndian.PutUint64(id[:8], nonZero())
	}
	binary.BigEndian.PutUint64(id[8:], nonZero())
	return id
}

// newSpanID returns a random span ID.
func newSpanID() (id SpanID) {
	binary.BigEndian.PutUint64(id[:], nonZero())
	return id
}

// nonZero returns a random number: zero is no ID.
func nonZero() uint64 {
	for {
		if n := rand.Uint64(); n != 0 {
			return n
		}
	}
}
