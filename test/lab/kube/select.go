// SPDX-License-Identifier: Apache-2.0

package kube

import (
	nethttp "net/http"
	"net/url"
	"slices"
	"strings"
)

// selector chooses objects by namespace, labels and fields.
type selector struct {
	ns    string // "" is all
	rules []func(Object) bool
}

func (s selector) matches(obj Object) bool {
	if s.ns != "" && str(obj, "metadata", "namespace") != s.ns {
		return false
	}
	for _, rule := range s.rules {
		if !rule(obj) {
			return false
		}
	}
	return true
}

func selectorOf(query url.Values, ns string) (selector, error) {
	s := selector{ns: ns}
	for _, term := range terms(query.Get("fieldSelector")) {
		path, value, equal, ok := equation(term)
		if !ok {
			return s, failure(nethttp.StatusBadRequest, "BadRequest", "fieldSelector: %q is not PATH=VALUE", term)
		}
		fields := strings.Split(path, ".")
		s.rules = append(s.rules, func(obj Object) bool { return (str(obj, fields...) == value) == equal })
	}
	for _, term := range terms(query.Get("labelSelector")) {
		rule, ok := labelRule(term)
		if !ok {
			return s, failure(nethttp.StatusBadRequest, "BadRequest", "labelSelector: %q is no requirement", term)
		}
		s.rules = append(s.rules, func(obj Object) bool {
			meta, _ := obj["metadata"].(Object)
			labels, _ := meta["labels"].(Object)
			v, has := labels[rule.key]
			text, _ := v.(string)
			return (has && (rule.values == nil || slices.Contains(rule.values, text))) == rule.wanted
		})
	}
	return s, nil
}

// terms splits at the commas that lie in no parentheses.
func terms(text string) []string {
	var all []string
	start, deep := 0, 0
	for i, c := range text {
		switch {
		case c == '(':
			deep++
		case c == ')':
			deep--
		case c == ',' && deep == 0:
			all, start = append(all, strings.TrimSpace(text[start:i])), i+1
		}
	}
	if rest := strings.TrimSpace(text[start:]); rest != "" {
		all = append(all, rest)
	}
	return all
}

func equation(term string) (left, right string, equal, ok bool) {
	if left, right, ok = strings.Cut(term, "!="); ok {
		return strings.TrimSpace(left), strings.TrimSpace(right), false, true
	}
	if left, right, ok = strings.Cut(term, "="); ok {
		return strings.TrimSpace(left), strings.TrimSpace(strings.TrimPrefix(right, "=")), true, true
	}
	return "", "", false, false
}

// labelRequirement holds where a label with one of the values, or with any if
// values is nil, is there as wanted.
type labelRequirement struct {
	key    string
	values []string
	wanted bool
}

func labelRule(term string) (labelRequirement, bool) {
	if head, list, ok := strings.Cut(term, "("); ok {
		f := strings.Fields(head)
		if len(f) != 2 || f[1] != "in" && f[1] != "notin" || !strings.HasSuffix(list, ")") {
			return labelRequirement{}, false
		}
		values := strings.Split(strings.TrimSuffix(list, ")"), ",")
		for i := range values {
			values[i] = strings.TrimSpace(values[i])
		}
		return labelRequirement{f[0], values, f[1] == "in"}, true
	}
	if key, value, equal, ok := equation(term); ok {
		return labelRequirement{key, []string{value}, equal}, key != ""
	}
	key, absent := strings.CutPrefix(term, "!")
	return labelRequirement{key, nil, !absent}, key != "" && !strings.ContainsAny(key, " ()")
}
