// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// View is how the statistics of a Registry are shown, and which: what
// stats_config of Envoy's bootstrap says. The zero value shows all of them with
// Envoy's default tags.
type View struct {
	Tags    *Tags    // nil: Envoy's own
	Include *Matcher // nil: all
}

// TagRule takes a part of a dotted name out of it and makes it a label
// (envoy.config.metrics.v3.TagSpecifier): what the first group of Regex matches
// is cut out, what the second does, or the first where there is no second, is
// the value.
type TagRule struct{ Label, Regex string }

// Tags make the exposition's names and labels of dotted names. They are
// immutable.
type Tags struct{ rules []tagRule }

type tagRule struct {
	label string
	re    *regexp.Regexp
	value int // the group that is the value
}

// NewTags compiles rules, which are tried in their order. The error names the
// one that can't be used.
func NewTags(rules []TagRule) (*Tags, error) {
	t := &Tags{}
	for _, r := range rules {
		re, err := regexp.Compile(r.Regex)
		if err == nil && re.NumSubexp() == 0 {
			err = errors.New("it has no group")
		}
		if err != nil {
			return nil, fmt.Errorf("tag %q: %w", r.Label, err)
		}
		t.rules = append(t.rules, tagRule{label: sanitize(r.Label), re: re, value: min(re.NumSubexp(), 2)})
	}
	return t, nil
}

// extract returns name without what the rules take out of it, and that. Each
// rule sees the whole name, so that two may take out the same octets
// (Envoy: TagProducerImpl::produceTags).
func (t *Tags) extract(name string) (rest string, l labels) {
	cut := make([]bool, len(name))
	for _, r := range t.rules {
		at := r.re.FindStringSubmatchIndex(name)
		if at == nil || at[2] < 0 || at[2*r.value] < 0 {
			continue
		}
		for i := at[2]; i < at[3]; i++ {
			cut[i] = true
		}
		l.names = append(l.names, r.label)
		l.values = append(l.values, name[at[2*r.value]:at[2*r.value+1]])
	}
	if l.names == nil {
		return name, l
	}
	var b strings.Builder
	for i := range len(name) {
		if !cut[i] {
			b.WriteByte(name[i])
		}
	}
	return b.String(), l
}

// Matcher is a list of what is to be seen, by dotted names: what it doesn't name
// isn't there for whoever reads (Envoy: stats_matcher.inclusion_list). Metrics
// whose names are not of Envoy's kind (Metric.Raw) are not subject to it.
// A Matcher is immutable.
type Matcher struct {
	prefixes, suffixes [][]byte
	regexes            []wholeRegex
}

// wholeRegex matches whole names. What each of them begins with is looked at first:
// most names don't, and the expression itself costs many times as much.
type wholeRegex struct {
	*regexp.Regexp
	prefix []byte
}

// NewMatcher returns a matcher of what begins with a prefix, ends in a suffix, or
// is matched by an expression as a whole.
func NewMatcher(prefixes, suffixes, regexes []string) (*Matcher, error) {
	m := &Matcher{}
	for _, s := range prefixes {
		m.prefixes = append(m.prefixes, []byte(s))
	}
	for _, s := range suffixes {
		m.suffixes = append(m.suffixes, []byte(s))
	}
	for _, s := range regexes {
		part, err := regexp.Compile(s)
		if err != nil {
			return nil, err // which names s alone
		}
		whole, err := regexp.Compile(`\A(?:` + s + `)\z`)
		if err != nil {
			return nil, err
		}
		prefix, _ := part.LiteralPrefix()
		m.regexes = append(m.regexes, wholeRegex{whole, []byte(prefix)})
	}
	return m, nil
}

// includes reports whether a name is on the list.
func (m *Matcher) includes(name []byte) bool {
	for _, p := range m.prefixes {
		if bytes.HasPrefix(name, p) {
			return true
		}
	}
	for _, s := range m.suffixes {
		if bytes.HasSuffix(name, s) {
			return true
		}
	}
	for _, re := range m.regexes {
		if bytes.HasPrefix(name, re.prefix) && re.Match(name) {
			return true
		}
	}
	return false
}
