// SPDX-License-Identifier: Apache-2.0

package match

import "strconv"

// Header is a predicate over the lines of one field name, as
// envoy.config.route.v3.HeaderMatcher. It knows nothing of how a message
// holds its fields: whoever does feeds it each line through Line and turns
// the tally into a verdict through Verdict (filter.HeaderMatcher does this
// for requests). Immutable.
//
// Lines of the same name are looked at one by one and any may match; Envoy
// stopped joining them by commas because a joined value slipped past exact
// rules (CVE-2026-26308).
type Header struct {
	name    string
	test    presence
	invert  bool
	missing bool // a missing field counts as one empty line
	value   String
	lo, hi  int64 // [lo, hi) for testRange
}

// presence is what is asked of a field or parameter.
type presence uint8

const (
	testPresent presence = iota
	testAbsent
	testString
	testRange
)

// HeaderOption holds the two flags that change what a header test means.
type HeaderOption struct {
	// Invert turns the verdict round. A missing field still fails a test of
	// its value unless MissingAsEmpty is set.
	Invert bool
	// MissingAsEmpty tests a missing field as if it had an empty value.
	MissingAsEmpty bool
}

// NewHeaderPresent asks that the field is there, or with present false that
// it is not.
func NewHeaderPresent(name string, present bool, o HeaderOption) Header {
	h := Header{name: name, invert: o.Invert, missing: o.MissingAsEmpty, test: testPresent}
	if !present {
		h.test = testAbsent
	}
	return h
}

// NewHeaderString asks that a line's value satisfies a string predicate.
func NewHeaderString(name string, v String, o HeaderOption) Header {
	return Header{name: name, test: testString, value: v, invert: o.Invert, missing: o.MissingAsEmpty}
}

// NewHeaderRange asks that a line's value is a decimal number in [lo, hi).
func NewHeaderRange(name string, lo, hi int64, o HeaderOption) Header {
	return Header{name: name, test: testRange, lo: lo, hi: hi, invert: o.Invert, missing: o.MissingAsEmpty}
}

// Name returns the field name as configured.
func (h *Header) Name() string { return h.name }

// Line reports whether one line's value satisfies the test, before inversion.
func (h *Header) Line(v []byte) bool {
	switch h.test {
	case testString:
		return h.value.Match(v)
	case testRange:
		n, ok := parseInt(v)
		return ok && h.lo <= n && n < h.hi
	}
	return true
}

// Verdict combines what was seen: whether the field was present at all, and
// whether one of its lines satisfied Line.
func (h *Header) Verdict(present, matched bool) bool {
	if !present && h.missing {
		present = true
		matched = h.Line(nil)
	}
	switch h.test {
	case testPresent:
		return present != h.invert
	case testAbsent:
		return present == h.invert
	}
	return present && matched != h.invert
}

// String describes the predicate, as in `header "end-user" exact "jason"`.
func (h *Header) String() string {
	s := "header " + strconv.Quote(h.name)
	if h.invert {
		s += " not"
	}
	switch h.test {
	case testPresent:
		s += " present"
	case testAbsent:
		s += " absent"
	case testString:
		s += " " + h.value.String()
	case testRange:
		s += " in [" + strconv.FormatInt(h.lo, 10) + ", " + strconv.FormatInt(h.hi, 10) + ")"
	}
	if h.missing {
		s += " (missing is empty)"
	}
	return s
}

// parseInt reads a decimal number with an optional sign. It is strconv's
// ParseInt without the conversion to a string.
func parseInt(b []byte) (int64, bool) {
	neg := false
	if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
		neg = b[0] == '-'
		b = b[1:]
	}
	if len(b) == 0 {
		return 0, false
	}
	limit := uint64(1) << 63
	if !neg {
		limit--
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := uint64(c - '0')
		if n > (limit-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	if neg {
		return -int64(n), true
	}
	return int64(n), true
}
