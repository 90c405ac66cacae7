// SPDX-License-Identifier: Apache-2.0

package test

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pillion/test/wire"
)

// allowance is a field whose value may differ between Envoy and the proxy.
type allowance struct {
	where string // response, request, response trailer, request trailer, or what compare reports
	field string // in lower case; "" where no field is compared
	cases string // expression for the cases' names; "" is all
	fine  func(envoy, ours []string) bool
	why   string
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// each tells whether there are as many values on both sides, all of which
// hold.
func each(holds func(string) bool) func(envoy, ours []string) bool {
	return func(envoy, ours []string) bool {
		return len(envoy) == len(ours) && !slices.ContainsFunc(slices.Concat(envoy, ours), func(v string) bool { return !holds(v) })
	}
}

func isNumber(v string) bool {
	_, err := strconv.ParseUint(v, 10, 32)
	return err == nil
}

// only tells whether one side has no value and the other one a certain one.
func only(theirs, own string) func(envoy, ours []string) bool {
	is := func(values []string, want string) bool {
		return want == "" && len(values) == 0 || len(values) == 1 && values[0] == want
	}
	return func(envoy, ours []string) bool { return is(envoy, theirs) && is(ours, own) }
}

// allowances lists every difference that is meant to be.
var allowances = []allowance{
	{where: "response", field: "date", fine: each(func(v string) bool { return strings.HasSuffix(v, " GMT") }),
		why: "the two answers are made at different moments"},
	{where: "response", field: "x-envoy-upstream-service-time", fine: each(isNumber),
		why: "milliseconds that were measured"},
	{where: "request", field: "x-request-id", fine: each(uuid.MatchString),
		why: "a random number each"},

	{where: "reason phrase", cases: "^response: reason phrase$|^599$",
		why: "Envoy writes a phrase of its own; ours passes on the one that the server chose"},
	{where: "reason phrase", cases: "^fault abort", fine: only("Unknown", "I'm a teapot"),
		why: "Envoy has no phrase for 418"},
	{where: "interim responses", cases: "^100 that nobody asked for$", fine: only("[100]", "[]"),
		why: "a client that asked for no 100 has no use for it, and old ones take it for the answer"},

	{where: "response", field: "transfer-encoding", cases: "HEAD", fine: only("chunked", ""),
		why: "a response to HEAD has no body to frame (RFC 9112 section 6.1)"},
	{where: "response", field: "content-length", cases: "^(no route|name that nobody knows), HEAD$", fine: only("", "0"),
		why: "ours says the length that GET has"},
	{where: "response", field: "x-hop", cases: "^response: hop by hop$", fine: only("1", ""),
		why: "Connection names it, so it ends here (RFC 9110 section 7.6.1); Envoy does so for requests only"},
	{where: "request", field: "http2-settings", cases: "^http2 settings", fine: only("AAMAAABkAAQAAP__", ""),
		why: "it belongs to an upgrade that isn't made, and a server may act on it (RFC 7540 section 3.2.1)"},
	{where: "request", field: "x-request-id", cases: "^request id twice$",
		fine: func(envoy, ours []string) bool { return strings.Join(envoy, ",") == strings.Join(ours, ",") },
		why:  "Envoy joins the two lines, ours leaves them as they are"},
	{where: "request trailer", field: "x-sum", fine: only("", "42"),
		why: "Envoy drops the trailers of HTTP/1 unless it is told to keep them"},
	{where: "response trailer", field: "x-sum", fine: only("", "42"),
		why: "Envoy drops the trailers of HTTP/1 unless it is told to keep them"},
}

// comparison compares the two sides of one case.
type comparison struct {
	t    *testing.T
	name string       // of the case
	list []allowance  // what may differ
	used map[int]bool // allowances that were made use of, over all cases
}

// text compares one thing that what names.
func (c comparison) text(what, envoy, ours string) {
	c.t.Helper()
	if envoy != ours && !c.allowed(what, "", []string{envoy}, []string{ours}) {
		c.t.Errorf("%s: Envoy %.400q, ours %.400q", what, envoy, ours)
	}
}

// fields compares two sets of fields by name, without regard to case and to
// the order of different names: Envoy writes names in lower case and its own
// fields last, the proxy keeps what it got. TestHeaderOrder holds it to that.
func (c comparison) fields(where string, envoy, ours wire.Fields) {
	c.t.Helper()
	for _, field := range fieldNames(envoy, ours) {
		a, b := envoy.Values(field), ours.Values(field)
		if !slices.Equal(a, b) && !c.allowed(where, field, a, b) {
			c.t.Errorf("%s field %s: Envoy %.200q, ours %.200q", where, field, a, b)
		}
	}
}

// allowed tells whether an allowance covers a difference.
func (c comparison) allowed(where, field string, envoy, ours []string) bool {
	for i, l := range c.list {
		if l.where == where && l.field == field && (l.cases == "" || regexp.MustCompile(l.cases).MatchString(c.name)) &&
			(l.fine == nil || l.fine(envoy, ours)) {
			c.used[i] = true
			return true
		}
	}
	return false
}

// fieldNames returns the lower-case names of both sides, each once.
func fieldNames(sides ...wire.Fields) []string {
	var names []string
	for _, f := range slices.Concat(sides...) {
		if name := strings.ToLower(f.Name); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
