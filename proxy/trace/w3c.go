// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/hex"

	"pillion/proxy/http"
)

// traceparentLength is that of version 00: 00-{32}-{16}-{2}.
const traceparentLength = 55

// readW3C reads traceparent and tracestate. What is invalid is as good as not
// there: the trace begins anew, and tracestate belongs to nothing (W3C Trace
// Context section 4.3). Envoy passes both on as they are and records nothing.
func readW3C(fields *http.Fields) (f found) {
	v, ok := only(fields, http.HeaderTraceparent)
	if !ok {
		return f
	}
	c := &f.Context
	if f.traced = parseTraceparent(c, v); !f.traced {
		f.Context = Context{}
		return f
	}
	f.decided = true
	c.State, _ = fields.Get(http.HeaderTracestate)
	return f
}

// only returns the value of a field that has one line; false where it has none or
// several.
func only(fields *http.Fields, id http.HeaderID) (value []byte, ok bool) {
	for i := range fields.Len() {
		if f := fields.At(i); f.ID == id {
			if ok {
				return nil, false
			}
			value, ok = f.Value, true
		}
	}
	return value, ok
}

// parseTraceparent reads a traceparent (W3C Trace Context section 3.2.2). Of a
// version after 00 it takes what it knows (section 4.3, "Versioning").
func parseTraceparent(c *Context, v []byte) bool {
	if len(v) < traceparentLength || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return false
	}
	var version, flags [1]byte
	if !parseHex(version[:], v[:2], false) || version[0] == 0xff {
		return false
	}
	if len(v) > traceparentLength && (version[0] == 0 || v[traceparentLength] != '-') {
		return false
	}
	if !parseHex(c.TraceID[:], v[3:35], false) || !parseHex(c.SpanID[:], v[36:52], false) || !parseHex(flags[:], v[53:55], false) {
		return false
	}
	c.Sampled = flags[0]&1 != 0
	return c.TraceID.IsValid() && c.SpanID.IsValid()
}

// writeW3C writes traceparent in version 00. tracestate stays as it came if it
// belongs to this trace.
func writeW3C(ex *http.Exchange, c *Context) {
	v := append(ex.Scratch(traceparentLength)[:0], "00-"...)
	v = append(hex.AppendEncode(v, c.TraceID[:]), '-')
	v = append(hex.AppendEncode(v, c.SpanID[:]), "-00"...)
	if c.Sampled {
		v[traceparentLength-1] = '1'
	}
	fields := &ex.Req.Fields
	fields.SetID(http.HeaderTraceparent, v)
	if len(c.State) == 0 {
		fields.DelID(http.HeaderTracestate)
	}
}
