// SPDX-License-Identifier: Apache-2.0

package match

import (
	"bytes"
	"strconv"
)

// Query is a predicate over one parameter of a query string, as
// envoy.config.route.v3.QueryParameterMatcher. As in Envoy, names and values
// are compared as they are on the wire, without percent-decoding, and of a
// repeated parameter only the first counts. Immutable.
type Query struct {
	name  string
	test  presence
	value String
}

// NewQueryPresent asks that the parameter is there, or with present false
// that it is not.
func NewQueryPresent(name string, present bool) Query {
	q := Query{name: name, test: testPresent}
	if !present {
		q.test = testAbsent
	}
	return q
}

// NewQueryString asks that the parameter is there and its value satisfies v.
func NewQueryString(name string, v String) Query {
	return Query{name: name, test: testString, value: v}
}

// QueryValue returns the value of the first parameter of that name; a
// parameter without '=' has an empty one.
func QueryValue(query []byte, name string) ([]byte, bool) {
	for len(query) > 0 {
		part := query
		if i := bytes.IndexByte(query, '&'); i >= 0 {
			part, query = query[:i], query[i+1:]
		} else {
			query = nil
		}
		if len(part) < len(name) || string(part[:len(name)]) != name {
			continue
		}
		switch rest := part[len(name):]; {
		case len(rest) == 0:
			// An empty part ("a&&b") is no parameter, not one without a name.
			if len(name) > 0 {
				return rest, true
			}
		case rest[0] == '=':
			return rest[1:], true
		}
	}
	return nil, false
}

// Match reports whether query, which begins after the '?', satisfies the
// predicate.
func (q *Query) Match(query []byte) bool {
	v, ok := QueryValue(query, q.name)
	switch q.test {
	case testPresent:
		return ok
	case testAbsent:
		return !ok
	}
	return ok && q.value.Match(v)
}

// String describes the predicate.
func (q *Query) String() string {
	s := "query parameter " + strconv.Quote(q.name)
	switch q.test {
	case testPresent:
		return s + " present"
	case testAbsent:
		return s + " absent"
	}
	return s + " " + q.value.String()
}

// Why tells why query fails the predicate; it is empty when it satisfies it.
func (q *Query) Why(query []byte) string {
	if q.Match(query) {
		return ""
	}
	v, ok := QueryValue(query, q.name)
	if !ok {
		return "missing, fails " + q.String()
	}
	return clip(v) + " fails " + q.String()
}
