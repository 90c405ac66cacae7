// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// describe names what a node holds, for messages: the string "x", the number 3, a list.
func describe(n *yaml.Node) string {
	n = target(n)
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return "the boolean " + n.Value
	}
	return "the string " + strconv.Quote(clip(n.Value))
}

// clip shortens a value that goes into a message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// text reads a string. Numbers and booleans aren't taken for strings, because a
// Kubernetes API server doesn't take them either and the same file should mean the same
// on a laptop and in a cluster.
func (s *subject) text(n *yaml.Node, at *place) (string, bool) {
	n = target(n)
	switch {
	case n.Kind != yaml.ScalarNode || isNull(n):
		s.fail(n, at, "wants a string, not %s", describe(n))
		return "", false
	case n.Tag == "!!int" || n.Tag == "!!float" || n.Tag == "!!bool":
		s.fail(n, at, "wants a string, not %s; write it in quotes: %q", describe(n), n.Value)
		return "", false
	case n.Style == 0 && oldBool(n.Value) != nil:
		s.fail(n, at, "%s without quotes is a boolean to Kubernetes (YAML 1.1); write it in quotes: %q", n.Value, n.Value)
		return "", false
	}
	return n.Value, true
}

// oldBool returns the value of a word that is a boolean in YAML 1.1, which Kubernetes'
// tools read, but not in YAML 1.2; nil for other words.
func oldBool(word string) *bool {
	switch word {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
		v := true
		return &v
	case "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		v := false
		return &v
	}
	return nil
}

// boolean reads true or false, or YAML 1.1's words for them.
func (s *subject) boolean(n *yaml.Node, at *place) (value, ok bool) {
	n = target(n)
	if n.Kind == yaml.ScalarNode {
		if n.Tag == "!!bool" {
			return strings.EqualFold(n.Value, "true"), true
		}
		if v := oldBool(n.Value); v != nil && n.Style == 0 {
			return *v, true
		}
	}
	s.fail(n, at, "wants true or false, not %s", describe(n))
	return false, false
}

// integer reads a whole number from lo to hi.
func (s *subject) integer(n *yaml.Node, at *place, lo, hi int64) (int64, bool) {
	n = target(n)
	v, ok := wholeNumber(n)
	if !ok {
		s.failNumber(n, at, "a whole number")
		return 0, false
	}
	if v < lo || v > hi {
		s.fail(n, at, "%s is out of range; wants %d to %d", n.Value, lo, hi)
		return 0, false
	}
	return v, true
}

// wholeNumber reads a YAML integer, or a float without a fraction: JSON knows only one
// kind of number, so 50.0 is 50.
func wholeNumber(n *yaml.Node) (int64, bool) {
	if n.Kind != yaml.ScalarNode {
		return 0, false
	}
	switch n.Tag {
	case "!!int":
		v, err := strconv.ParseInt(strings.ReplaceAll(n.Value, "_", ""), 0, 64)
		return v, err == nil
	case "!!float":
		f, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64)
		if err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return int64(f), true
		}
	}
	return 0, false
}

// bigInteger reads an unsigned or signed 64-bit number, which protobuf's JSON form also
// writes as a string of digits.
func (s *subject) bigInteger(n *yaml.Node, at *place, signed bool) (int64, uint64, bool) {
	n = target(n)
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!int" || n.Tag == "!!str") {
		digits := strings.ReplaceAll(n.Value, "_", "")
		if signed {
			if v, err := strconv.ParseInt(digits, 0, 64); err == nil {
				return v, 0, true
			}
		} else if v, err := strconv.ParseUint(digits, 0, 64); err == nil {
			return 0, v, true
		}
	}
	if v, ok := wholeNumber(n); ok && (signed || v >= 0) {
		return v, uint64(v), true
	}
	want := "a whole number of at most 64 bits"
	if !signed {
		want += ", not negative"
	}
	s.failNumber(n, at, want)
	return 0, 0, false
}

// number reads a finite number.
func (s *subject) number(n *yaml.Node, at *place) (float64, bool) {
	n = target(n)
	if n.Kind == yaml.ScalarNode {
		switch n.Tag {
		case "!!int":
			if v, ok := wholeNumber(n); ok {
				return float64(v), true
			}
		case "!!float":
			v, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64)
			if err == nil && !math.IsInf(v, 0) && !math.IsNaN(v) {
				return v, true
			}
		}
	}
	s.failNumber(n, at, "a finite number")
	return 0, false
}

func (s *subject) failNumber(n *yaml.Node, at *place, want string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		if _, err := strconv.ParseFloat(n.Value, 64); err == nil {
			s.fail(n, at, "wants %s, not %s; leave the quotes out", want, describe(n))
			return
		}
	}
	s.fail(n, at, "wants %s, not %s", want, describe(n))
}

// bytes reads base64, in any of the alphabets and paddings that protobuf's JSON form allows.
func (s *subject) bytes(n *yaml.Node, at *place) ([]byte, bool) {
	str, ok := s.text(n, at)
	if !ok {
		return nil, false
	}
	enc := base64.RawStdEncoding
	if strings.ContainsAny(str, "-_") {
		enc = base64.RawURLEncoding
	}
	b, err := enc.DecodeString(strings.TrimRight(str, "="))
	if err != nil {
		s.fail(target(n), at, "wants base64, not %s", describe(n))
		return nil, false
	}
	return b, true
}

// maxDuration is the largest span that time.Duration, and so everything behind it, holds.
const maxDuration = time.Duration(math.MaxInt64)

// duration reads Go's form, which Istio's own decoder takes for google.protobuf.Duration.
func (s *subject) duration(n *yaml.Node, at *place) (time.Duration, bool) {
	n = target(n)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		hint := ""
		if _, ok := wholeNumber(n); ok {
			hint = fmt.Sprintf("; a number needs a unit: %ss", n.Value)
		}
		s.fail(n, at, `wants a duration such as "1.5s", "300ms" or "1h", not %s%s`, describe(n), hint)
		return 0, false
	}
	d, err := time.ParseDuration(n.Value)
	if err != nil {
		s.fail(n, at, `wants a duration such as "1.5s", "300ms" or "1h" (units h, m, s, ms, us, ns; at most %s), not %s`,
			maxDuration.Truncate(time.Hour), describe(n))
		return 0, false
	}
	return d, true
}
