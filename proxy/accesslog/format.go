// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"fmt"
	"strconv"
	"strings"

	"pillion/proxy/http"
)

// segment is one piece of a compiled format: literal text, or an operator
// with its parameters. Immutable.
type segment struct {
	op  op
	lit string // literal text; of opConstant, the value

	// The field that a header operator looks up, and the one it takes in its
	// place if that is not there.
	field, alt fieldName
	fact       http.TLSFact       // of opTLS and opTLSTime
	data       *http.MetadataPath // of opMetadata
	limit      int                // greatest length of the value; 0: no limit
	time       *timeFormat        // of the operators for times
	span       span               // of COMMON_DURATION
	snake      bool               // GRPC_STATUS in snake case
	spaces     bool               // RESPONSE_CODE_DETAILS keeps its spaces
}

// fieldName is the name of a header field, or of what HTTP/2 sends as one.
type fieldName struct {
	id     http.HeaderID
	name   []byte
	pseudo pseudo
}

// pseudo numbers the pseudo-header fields.
type pseudo uint8

const (
	notPseudo pseudo = iota
	pseudoMethod
	pseudoPath
	pseudoAuthority
	pseudoScheme
	pseudoStatus
	pseudoOther // one that no message has
)

// template is a compiled text. Immutable.
type template struct{ segments []segment }

// compile compiles a text with operators: %NAME%, %NAME(PARAMETER)%,
// %NAME(PARAMETER):LENGTH%, and %% for a percent sign.
func compile(format string, env *compileEnv) (*template, error) {
	t := &template{}
	for pos := 0; pos < len(format); {
		next := strings.IndexByte(format[pos:], '%')
		if next < 0 {
			next = len(format) - pos
		}
		t.literal(format[pos : pos+next])
		if pos += next; pos == len(format) {
			break
		}
		if strings.HasPrefix(format[pos:], "%%") {
			t.literal("%")
			pos += 2
			continue
		}
		call, n, err := parseCall(format[pos:])
		if err == nil {
			var s segment
			if s, err = compileCall(call, env); err == nil {
				t.segments = append(t.segments, s)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("offset %d: %w", pos, err)
		}
		pos += n
	}
	return t, nil
}

// literal appends text, to the literal before it if there is one.
func (t *template) literal(text string) {
	if text == "" {
		return
	}
	if n := len(t.segments); n > 0 && t.segments[n-1].op == opLiteral {
		t.segments[n-1].lit += text
		return
	}
	t.segments = append(t.segments, segment{op: opLiteral, lit: text})
}

// call is an operator as it is written.
type call struct {
	name     string
	param    string
	hasParam bool
	limit    int // 0: none
}

// parseCall reads the operator at the start of s, which is a '%', and returns
// its length.
func parseCall(s string) (call, int, error) {
	i := 1
	for i < len(s) && (s[i] == '_' || 'A' <= s[i] && s[i] <= 'Z' || '0' <= s[i] && s[i] <= '9') {
		i++
	}
	c := call{name: s[1:i]}
	if i < len(s) && s[i] == '(' {
		end := strings.IndexByte(s[i:], ')')
		if end < 0 {
			return c, 0, fmt.Errorf("%%%s( has no closing parenthesis", c.name)
		}
		c.param, c.hasParam = s[i+1:i+end], true
		i += end + 1
	}
	if i < len(s) && s[i] == ':' {
		end := strings.IndexByte(s[i:], '%')
		if end < 0 {
			end = len(s) - i
		}
		n, err := strconv.ParseUint(s[i+1:i+end], 10, 31)
		if err != nil || n == 0 {
			return c, 0, fmt.Errorf("%%%s has the length %q: must be a number of at least 1", c.name, s[i+1:i+end])
		}
		c.limit = int(n)
		i += end
	}
	if i == len(s) || s[i] != '%' || c.name == "" {
		return c, 0, fmt.Errorf("%.20q is no operator: write %%NAME%%, %%NAME(PARAMETER)%% or %%%% for a percent sign", s)
	}
	return c, i + 1, nil
}

// parseFields sets the names of a header operator: NAME or NAME?OTHER.
func (s *segment) parseFields(param string) error {
	name, alt, hasAlt := strings.Cut(param, "?")
	if name == "" || hasAlt && alt == "" || strings.Contains(alt, "?") {
		return fmt.Errorf("needs a name, or a name and another one for it, as in NAME?OTHER")
	}
	s.field = makeFieldName(name)
	if hasAlt {
		s.alt = makeFieldName(alt)
	}
	return nil
}

func makeFieldName(name string) fieldName {
	f := fieldName{name: []byte(strings.ToLower(name))}
	switch string(f.name) {
	case ":method":
		f.pseudo = pseudoMethod
	case ":path":
		f.pseudo = pseudoPath
	case ":authority", "host":
		f.pseudo = pseudoAuthority
	case ":scheme":
		f.pseudo = pseudoScheme
	case ":status":
		f.pseudo = pseudoStatus
	default:
		if f.name[0] == ':' {
			f.pseudo = pseudoOther
		}
	}
	f.id = http.LookupHeader(f.name)
	return f
}
