// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// plan is how some metrics of a group are labelled: those whose bits are in mask. It
// is immutable; its address is under which hosts keep what it found for them.
type plan[C any] struct {
	mask   uint32
	family *stats.Family[C]
	// labels are where the values come from; nil for Istio's own.
	labels []label
	// varies are the expressions whose value an exchange decides.
	varies []*expression
	noHost clusters[C]
}

// label is where a label's value comes from: from one of Istio's own, unless there
// is an expression.
type label struct {
	name       string
	own        int
	expression *expression
}

// maxLabel bounds values that expressions make.
const maxLabel = 256

var labelSeed = maphash.MakeSeed()

// subjects are those of expressions that are evaluated for a key.
var subjects = sync.Pool{New: func() any { return new(subject) }}

// vary puts what the expressions say of a request, or of a raw connection, into its
// key.
func (p *plan[C]) vary(k *key, ex *http.Exchange, raw *filter.Connection) {
	if k.varied = 0; len(p.varies) == 0 {
		return
	}
	s := subjects.Get().(*subject)
	defer func() {
		*s = subject{}
		subjects.Put(s)
	}()
	s.be(ex, raw)
	var h maphash.Hash
	h.SetSeed(labelSeed)
	for _, e := range p.varies {
		v := e.eval(s)
		v.hash(&h)
	}
	k.varied = h.Sum64()
}

// values makes the label values of Istio's own.
func (p *plan[C]) values(own []string, ex *http.Exchange, raw *filter.Connection) []string {
	if p.labels == nil {
		return own
	}
	s := new(subject)
	s.be(ex, raw)
	out := make([]string, len(p.labels))
	for i, l := range p.labels {
		if l.expression == nil {
			out[i] = own[l.own]
			continue
		}
		v := l.expression.eval(s)
		out[i] = v.label()
	}
	return out
}

// planFor makes the plans of a group of metrics that have the labels own. family
// returns the family with some labels.
func planFor[C any](l *labelling, metrics, own []string, family func(labels []string) *stats.Family[C]) (plans []*plan[C]) {
	if l == nil {
		return []*plan[C]{{mask: 1<<len(metrics) - 1, family: family(own)}}
	}
	byText := map[string]*plan[C]{}
	for bit, m := range metrics {
		if l.drop[m] {
			continue
		}
		labels, text := l.labels(m, own)
		p := byText[text]
		if p == nil {
			p = newPlan(labels, own, family)
			byText[text] = p
			plans = append(plans, p)
		}
		p.mask |= 1 << bit
	}
	return plans
}

func newPlan[C any](labels []label, own []string, family func([]string) *stats.Family[C]) *plan[C] {
	p := &plan[C]{labels: labels}
	names := make([]string, len(labels))
	same := len(labels) == len(own)
	for i, l := range labels {
		names[i] = l.name
		same = same && l.expression == nil
		if l.expression != nil && !l.expression.constant {
			p.varies = append(p.varies, l.expression)
		}
	}
	if same {
		p.labels = nil
	}
	p.family = family(names)
	return p
}

// labels returns the labels of a metric and a text that stands for them: Istio's own
// in their order, then others by name.
func (l *labelling) labels(metric string, own []string) (out []label, text string) {
	tags := l.tags[metric]
	compile := func(tag string) *expression {
		e, err := parseExpression(tags[tag], &l.node)
		if err != nil {
			return unknownExpression
		}
		return e
	}
	var b strings.Builder
	for i, name := range own {
		one := label{name: name, own: i}
		expr, changed := tags[name]
		if changed && expr == "" {
			continue
		}
		if changed {
			one.expression = compile(name)
		}
		out = append(out, one)
		b.WriteString(name + "\x00" + expr + "\x00")
	}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		if tags[name] == "" || slices.Contains(own, name) {
			continue
		}
		out = append(out, label{name: name, expression: compile(name)})
		b.WriteString(name + "\x00" + tags[name] + "\x00")
	}
	return out, b.String()
}
