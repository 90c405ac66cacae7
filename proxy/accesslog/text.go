// SPDX-License-Identifier: Apache-2.0

package accesslog

import "pillion/proxy/http"

// Text is a compiled text with operators that stands elsewhere than in a log, such as
// in a tag of a span. It is immutable and safe for concurrent use.
type Text struct{ t *template }

// ParseText compiles a text with the operators of access logs. Errors name the offset.
func ParseText(format string) (*Text, error) {
	t, err := compile(format, newCompileEnv())
	if err != nil {
		return nil, err
	}
	return &Text{t}, nil
}

// Append appends the text for an exchange. An operator without a value is left out;
// false: nothing is left.
func (t *Text) Append(dst []byte, ex *http.Exchange) ([]byte, bool) {
	before := len(dst)
	for i := range t.t.segments {
		s := &t.t.segments[i]
		if s.op == opLiteral {
			dst = append(dst, s.lit...)
			continue
		}
		at := len(dst)
		var ok bool
		if dst, ok = s.append(dst, ex, asIs); !ok {
			dst = dst[:at]
		}
	}
	return dst, len(dst) > before
}
