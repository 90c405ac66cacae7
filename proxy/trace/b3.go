// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/hex"

	"pillion/proxy/http"
)

// readB3 reads b3, or where that isn't there the fields x-b3-…. One that can't be
// read is passed on as it is, and nothing is recorded, as Envoy does.
func readB3(fields *http.Fields) (f found) {
	if v, ok := fields.Get(http.HeaderB3); ok {
		f.single = true
		f.broken = !f.parseB3(v)
		return f
	}
	id, hasID := fields.Get(http.HeaderXB3TraceID)
	span, hasSpan := fields.Get(http.HeaderXB3SpanID)
	if v, ok := fields.Get(http.HeaderXB3Flags); ok && string(v) == "1" {
		f.Sampled, f.decided = true, true // debug
	} else if v, ok := fields.Get(http.HeaderXB3Sampled); ok {
		f.Sampled, f.decided = string(v) == "1" || http.EqualFoldString(v, "true"), true
	}
	if !hasID || !hasSpan {
		return f
	}
	if !parseTraceID(&f.TraceID, id) || !parseSpanID(&f.SpanID, span) {
		f.broken = true
		return f
	}
	f.traced = true
	if v, ok := fields.Get(http.HeaderXB3ParentSpanID); ok && !parseHex(f.ParentID[:], v, true) {
		f.ParentID = SpanID{} // nobody needs it
	}
	return f
}

// parseB3 reads a value of b3: {TraceId}-{SpanId}[-{SamplingState}[-{ParentSpanId}]],
// or the sampling state alone.
func (f *found) parseB3(v []byte) bool {
	if len(v) == 1 {
		return f.setState(v[0])
	}
	long := 32
	if len(v) > 16 && v[16] == '-' {
		long = 16
	}
	if len(v) < long+17 || v[long] != '-' || !parseTraceID(&f.TraceID, v[:long]) || !parseSpanID(&f.SpanID, v[long+1:long+17]) {
		return false
	}
	f.traced = true
	v = v[long+17:]
	if len(v) == 0 {
		return true
	}
	if len(v) != 2 && len(v) != 19 || v[0] != '-' || !f.setState(v[1]) {
		return false
	}
	return len(v) == 2 || v[2] == '-' && parseHex(f.ParentID[:], v[3:], true)
}

// setState reads a sampling state.
func (f *found) setState(c byte) bool {
	f.Sampled = c == '1' || c == 'd'
	f.decided = f.Sampled || c == '0'
	return f.decided
}

// parseTraceID reads an ID of 16 or 32 digits.
func parseTraceID(id *TraceID, v []byte) bool {
	if len(v) == 16 {
		return parseHex(id[8:], v, true) && id.IsValid()
	}
	return parseHex(id[:], v, true) && id.IsValid()
}

func parseSpanID(id *SpanID, v []byte) bool { return parseHex(id[:], v, true) && id.IsValid() }

// shortID is what is written of a trace ID: half of one of 64 bits, which goes on as
// it came.
func shortID(id *TraceID) []byte {
	if [8]byte(id[:8]) == [8]byte{} {
		return id[8:]
	}
	return id[:]
}

var (
	one  = []byte("1")
	zero = []byte("0")
)

// writeB3 writes the fields x-b3-….
func writeB3(ex *http.Exchange, c *Context) {
	fields := &ex.Req.Fields
	id := shortID(&c.TraceID)
	fields.SetID(http.HeaderXB3TraceID, hex.AppendEncode(ex.Scratch(2 * len(id))[:0], id))
	fields.SetID(http.HeaderXB3SpanID, hex.AppendEncode(ex.Scratch(16)[:0], c.SpanID[:]))
	if c.ParentID.IsValid() {
		fields.SetID(http.HeaderXB3ParentSpanID, hex.AppendEncode(ex.Scratch(16)[:0], c.ParentID[:]))
	} else {
		fields.DelID(http.HeaderXB3ParentSpanID)
	}
	sampled := zero
	if c.Sampled {
		sampled = one
	}
	fields.SetID(http.HeaderXB3Sampled, sampled)
}

// writeB3Single writes the field b3.
func writeB3Single(ex *http.Exchange, c *Context) {
	v := hex.AppendEncode(ex.Scratch(32 + 17 + 2 + 17)[:0], shortID(&c.TraceID))
	v = hex.AppendEncode(append(v, '-'), c.SpanID[:])
	if c.Sampled {
		v = append(v, "-1"...)
	} else {
		v = append(v, "-0"...)
	}
	if c.ParentID.IsValid() {
		v = hex.AppendEncode(append(v, '-'), c.ParentID[:])
	}
	ex.Req.Fields.SetID(http.HeaderB3, v)
}
