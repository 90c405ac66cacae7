// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// exposition gathers one scrape. Metrics come owner by owner and must be
// written name by name, so each is kept as a value and the number of its
// labels: 16 bytes for a counter. 5,000 clusters of sixty counters each make
// 5 MB this way, where finished protobuf messages would make 60.
type exposition struct {
	families map[string]*family     // by exposition name
	scoped   map[scopedName]*family // the same, by how a Scope names it
	sets     []labels               // by number
	scopes   map[scopeName]int32    // sets of scopes
	parts    map[partName]int32     // sets of scopes with a response code
	named    map[string]int32       // sets of other metrics
	err      error                  // the first metric that could not be taken
}

// labels is one set of labels: names may be shared by many sets.
type labels struct{ names, values []string }

type scopedName struct {
	kind, inner *scopeKind
	name        string
	part        part
}

type scopeName struct {
	kind, inner  *scopeKind
	name, within string
}

type partName struct {
	set    int32
	part   part
	number int
}

// family is all metrics of one exposition name.
type family struct {
	name, help string
	kind       Kind
	values     []numbered[float64]      // counters and gauges
	dists      []numbered[Distribution] // histograms
}

// numbered is a value with the number of its label set.
type numbered[T any] struct {
	set   int32
	value T
}

func newExposition() *exposition {
	return &exposition{
		families: map[string]*family{},
		scoped:   map[scopedName]*family{},
		sets:     []labels{{}},
		scopes:   map[scopeName]int32{},
		parts:    map[partName]int32{},
		named:    map[string]int32{"": 0},
	}
}

// add stores one value. f is nil when its family could not be made.
func (x *exposition) add(f *family, set int32, m *sample) {
	switch {
	case f == nil:
	case m.dist != nil:
		f.dists = append(f.dists, numbered[Distribution]{set, m.dist})
	default:
		f.values = append(f.values, numbered[float64]{set, m.value})
	}
}

// scopeFamily returns the family of a scope's metric.
func (x *exposition) scopeFamily(s *Scope, m *sample) *family {
	key := scopedName{s.kind, s.inner, m.name, m.part}
	if f, ok := x.scoped[key]; ok {
		return f
	}
	prom, dotted := s.kind.prom, s.kind.dotted+"<"+s.kind.label+">."
	if s.inner != nil {
		prom, dotted = prom+s.inner.prom, dotted+s.inner.dotted+"<"+s.inner.label+">."
	}
	prom, dotted = prom+m.name, dotted+m.name
	switch m.part {
	case partCode:
		dotted += "_<" + codeLabel + ">"
	case partClass:
		prom, dotted = prom+"_xx", dotted+"_<"+classLabel+">xx"
	}
	f := x.family(sanitize("envoy_"+prom), "Envoy statistic "+dotted+".", m.kind)
	x.scoped[key] = f
	return f
}

// namedFamily returns the family of a metric that belongs to no scope.
func (x *exposition) namedFamily(m *Metric) *family {
	prom := m.Prom
	if prom == "" {
		prom = m.Name
	}
	if m.Raw {
		return x.family(sanitize(prom), "Statistic "+m.Name+".", m.Kind)
	}
	return x.family(sanitize("envoy_"+prom), "Envoy statistic "+m.Name+".", m.Kind)
}

// family returns the family of that name. One name has one kind: a metric of
// another kind is refused, since the whole scrape would be.
func (x *exposition) family(name, help string, kind Kind) *family {
	f := x.families[name]
	if f == nil {
		f = &family{name: name, help: help, kind: kind}
		x.families[name] = f
	}
	if f.kind != kind {
		if x.err == nil {
			x.err = fmt.Errorf("metric %s is reported both as %v and as %v; the second is left out", name, f.kind, kind)
		}
		return nil
	}
	return f
}

// The labels that Envoy's tag extractor takes out of a counter's name.
const (
	codeLabel  = "envoy_response_code"
	classLabel = "envoy_response_code_class"
)

func (x *exposition) newSet(l labels) int32 {
	x.sets = append(x.sets, l)
	return int32(len(x.sets) - 1)
}

// scopeSet returns the number of a scope's labels. Scopes of the same name
// share it, so that their metrics are added up as Envoy's are.
func (x *exposition) scopeSet(s *Scope) int32 {
	key := scopeName{s.kind, s.inner, s.name, s.within}
	n, ok := x.scopes[key]
	if !ok {
		l := labels{[]string{s.kind.label}, []string{strings.TrimSuffix(s.name, ";")}}
		if s.inner != nil {
			l = labels{[]string{s.inner.label, s.kind.label}, []string{strings.TrimSuffix(s.within, ";"), l.values[0]}}
		}
		n = x.newSet(l)
		x.scopes[key] = n
	}
	return n
}

// partSet returns the labels of set, with that of a response code before them
// when the metric has one.
func (x *exposition) partSet(set int32, m *sample) int32 {
	if m.part == partNone {
		return set
	}
	key := partName{set, m.part, m.number}
	n, ok := x.parts[key]
	if !ok {
		name := codeLabel
		if m.part == partClass {
			name = classLabel
		}
		base := x.sets[set]
		n = x.newSet(labels{
			append([]string{name}, base.names...),
			append([]string{strconv.Itoa(m.number)}, base.values...),
		})
		x.parts[key] = n
	}
	return n
}

// labelSet returns the number of an arbitrary set of labels.
func (x *exposition) labelSet(ls []Label) int32 {
	if len(ls) == 0 {
		return 0
	}
	var key strings.Builder
	for _, l := range ls {
		key.WriteString(l.Name)
		key.WriteByte(0)
		key.WriteString(l.Value)
		key.WriteByte(0)
	}
	n, ok := x.named[key.String()]
	if !ok {
		var l labels
		for _, p := range ls {
			l.names = append(l.names, sanitize(p.Name))
			l.values = append(l.values, p.Value)
		}
		n = x.newSet(l)
		x.named[key.String()] = n
	}
	return n
}

// sorted returns the families by name, each with one value per label set.
func (x *exposition) sorted() []*family {
	out := make([]*family, 0, len(x.families))
	for _, f := range x.families {
		f.values = merge(f.values, func(a, b float64) float64 { return a + b })
		f.dists = merge(f.dists, func(a, b Distribution) Distribution {
			s, o := a.Snapshot(), b.Snapshot()
			s.Add(&o)
			return s
		})
		if len(f.values)+len(f.dists) > 0 {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *family) int { return cmp.Compare(a.name, b.name) })
	return out
}

// merge sorts values by label set and adds up those of the same one: two
// owners with one name are one metric to Envoy, and two lines of the same
// labels would be refused.
func merge[T any](list []numbered[T], add func(a, b T) T) []numbered[T] {
	bySet := func(a, b numbered[T]) int { return cmp.Compare(a.set, b.set) }
	if !slices.IsSortedFunc(list, bySet) {
		slices.SortStableFunc(list, bySet)
	}
	w := 0
	for r := range list {
		if w > 0 && list[w-1].set == list[r].set {
			list[w-1].value = add(list[w-1].value, list[r].value)
			continue
		}
		list[w] = list[r]
		w++
	}
	return list[:w]
}

// sanitize makes s a name that every reader of the exposition takes.
func sanitize(s string) string {
	ok := func(i int, c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || i > 0 && '0' <= c && c <= '9'
	}
	for i := range len(s) {
		if !ok(i, s[i]) {
			b := []byte(s)
			for j, c := range b {
				if !ok(j, c) {
					b[j] = '_'
				}
			}
			return string(b)
		}
	}
	return s
}
