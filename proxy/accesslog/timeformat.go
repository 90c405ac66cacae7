// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// timeFormat is a compiled strftime format with Envoy's extensions.
// Immutable.
type timeFormat struct {
	parts []timePart
	local bool // in the zone of the machine, else UTC
}

// timePart is literal text, or one conversion.
type timePart struct {
	verb   byte   // 0: literal; 'E': seconds with a fraction; 'L': by layout
	digits int    // of a fraction, for 'f' and 'E'
	text   string // the literal, or the layout of package time
}

// The formats that Envoy takes without a parameter.
const (
	defaultTime  = "%Y-%m-%dT%H:%M:%E3SZ"
	defaultLocal = "%Y-%m-%dT%H:%M:%E3S%z"
)

// layoutOf gives the layout for a conversion of one letter that package time
// can do; empty for others. Of strftime only what depends on a locale or on a
// week's number is left out.
func layoutOf(verb byte) string {
	switch verb {
	case 'a':
		return "Mon"
	case 'A':
		return "Monday"
	case 'b', 'h':
		return "Jan"
	case 'B':
		return "January"
	case 'D':
		return "01/02/06"
	case 'e':
		return "_2"
	case 'F':
		return "2006-01-02"
	case 'I':
		return "03"
	case 'j':
		return "002"
	case 'p':
		return "PM"
	case 'R':
		return "15:04"
	case 'T':
		return "15:04:05"
	case 'y':
		return "06"
	case 'z':
		return "-0700"
	case 'Z':
		return "MST"
	}
	return ""
}

// compileTime compiles a format, and tells on an error what is wrong with it.
func compileTime(format string, local bool) (*timeFormat, error) {
	f := &timeFormat{local: local}
	for rest := format; rest != ""; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			i = len(rest)
		}
		if i > 0 {
			f.literal(rest[:i])
			rest = rest[i:]
			continue
		}
		part, n := timeVerb(rest)
		switch {
		case n == 0:
			return nil, fmt.Errorf("unknown time conversion at %q in %q", rest, format)
		case part.verb == 0:
			f.literal(part.text)
		default:
			f.parts = append(f.parts, part)
		}
		rest = rest[n:]
	}
	return f, nil
}

func (f *timeFormat) literal(text string) {
	f.parts = append(f.parts, timePart{text: text})
}

// escape makes the text between conversions safe, before the format is used.
func (f *timeFormat) escape(enc encoding) {
	for i := range f.parts {
		if p := &f.parts[i]; p.verb == 0 {
			p.text = string(appendEscaped(nil, p.text, enc))
		}
	}
}

// timeVerb reads the conversion at the start of s, which is a '%', and returns
// its length, 0 for one that is unknown.
func timeVerb(s string) (timePart, int) {
	switch {
	case len(s) < 2:
		return timePart{}, 0
	case s[1] == '%':
		return timePart{text: "%"}, 2
	case s[1] == 'f':
		return timePart{verb: 'f', digits: 9}, 2
	case strings.IndexByte("YmdHMSs", s[1]) >= 0:
		return timePart{verb: s[1]}, 2
	case layoutOf(s[1]) != "":
		return timePart{verb: 'L', text: layoutOf(s[1])}, 2
	case len(s) >= 3 && '1' <= s[1] && s[1] <= '9' && s[2] == 'f':
		return timePart{verb: 'f', digits: int(s[1] - '0')}, 3
	case len(s) >= 3 && s[1] == 'E' && s[2] == 'T':
		return timePart{text: "T"}, 3
	case len(s) >= 4 && s[1] == 'E' && '0' <= s[2] && s[2] <= '9' && s[3] == 'S':
		return timePart{verb: 'E', digits: int(s[2] - '0')}, 4
	case len(s) >= 4 && s[1] == 'E' && '1' <= s[2] && s[2] <= '9' && s[3] == 'f':
		return timePart{verb: 'f', digits: int(s[2] - '0')}, 4
	}
	return timePart{}, 0
}

// append appends t in the format.
func (f *timeFormat) append(dst []byte, t time.Time) []byte {
	if !f.local {
		t = t.UTC()
	}
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	for i := range f.parts {
		switch p := &f.parts[i]; p.verb {
		case 0:
			dst = append(dst, p.text...)
		case 'Y':
			dst = strconv.AppendInt(dst, int64(year), 10)
		case 'm':
			dst = append2(dst, int(month))
		case 'd':
			dst = append2(dst, day)
		case 'H':
			dst = append2(dst, hour)
		case 'M':
			dst = append2(dst, minute)
		case 'S':
			dst = append2(dst, second)
		case 'E':
			dst = append2(dst, second)
			if p.digits > 0 {
				dst = appendFraction(append(dst, '.'), t.Nanosecond(), p.digits)
			}
		case 'f':
			dst = appendFraction(dst, t.Nanosecond(), p.digits)
		case 's':
			dst = strconv.AppendInt(dst, t.Unix(), 10)
		case 'L':
			dst = t.AppendFormat(dst, p.text)
		}
	}
	return dst
}

func append2(dst []byte, n int) []byte {
	return append(dst, byte('0'+n/10), byte('0'+n%10))
}

// appendFraction appends the first digits of ns as a fraction of a second.
func appendFraction(dst []byte, ns, digits int) []byte {
	for unit := 100_000_000; digits > 0; digits-- {
		dst = append(dst, byte('0'+ns/unit%10))
		unit /= 10
	}
	return dst
}
