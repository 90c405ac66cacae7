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
	where string // response, request, response trailer, request trailer
	field string // in lower case
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

// allowances lists every difference that is meant to be.
var allowances = []allowance{
	{where: "response", field: "date", fine: each(func(v string) bool { return strings.HasSuffix(v, " GMT") }),
		why: "the two answers are made at different moments"},
	{where: "response", field: "x-envoy-upstream-service-time", fine: each(isNumber),
		why: "milliseconds that were measured"},
	{where: "request", field: "x-request-id", fine: each(uuid.MatchString),
		why: "a random number each"},
}

// compareFields compares two sets of fields by name, without regard to case
// and to the order of different names: Envoy writes names in lower case and
// its own fields last, the proxy keeps what it got. TestHeaderOrder holds it
// to that.
func compareFields(t *testing.T, name, where string, envoy, ours wire.Fields) {
	t.Helper()
	for _, field := range fieldNames(envoy, ours) {
		a, b := envoy.Values(field), ours.Values(field)
		if slices.Equal(a, b) {
			continue
		}
		if !slices.ContainsFunc(allowances, func(l allowance) bool { return l.allows(name, where, field, a, b) }) {
			t.Errorf("%s field %s: Envoy %.200q, ours %.200q", where, field, a, b)
		}
	}
}

func (l allowance) allows(name, where, field string, envoy, ours []string) bool {
	if l.where != where || l.field != field || l.cases != "" && !regexp.MustCompile(l.cases).MatchString(name) {
		return false
	}
	return l.fine == nil || l.fine(envoy, ours)
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
