// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"maps"
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// destinationRule is the DestinationRules of one host that apply together: the first,
// with what later ones add to it.
type destinationRule struct {
	obj       *source.Object // the first; clusters name it in their metadata
	policy    *networking.TrafficPolicy
	policyObj *source.Object // where policy is
	subsets   []subset
	exportTo  []string // sorted; empty is everyone
	selector  map[string]string
	selective bool // has a workloadSelector, even an empty one
}

// subset is a named part of a service's endpoints.
type subset struct {
	*networking.Subset
	obj   *source.Object
	index int // in obj's spec.subsets
}

func (s *subset) field() string { return fmt.Sprintf("spec.subsets[%d]", s.index) }

// subset finds a subset by name; nil when there is none.
func (d *destinationRule) subset(name string) *subset {
	if d == nil {
		return nil
	}
	for i := range d.subsets {
		if d.subsets[i].Name == name {
			return &d.subsets[i]
		}
	}
	return nil
}

// newDestinationRule reads one resource. A rule with a workloadSelector stays in its
// own namespace whatever exportTo says.
func newDestinationRule(obj *source.Object, spec *networking.DestinationRule) *destinationRule {
	d := &destinationRule{
		obj:       obj,
		policy:    spec.TrafficPolicy,
		policyObj: obj,
		subsets:   make([]subset, 0, len(spec.Subsets)),
	}
	if spec.WorkloadSelector != nil {
		d.selective = true
		d.selector = spec.WorkloadSelector.MatchLabels
		d.exportTo = []string{"."}
	} else if len(spec.ExportTo) > 0 {
		d.exportTo = slices.Clone(spec.ExportTo)
		slices.Sort(d.exportTo)
	}
	for i, s := range spec.Subsets {
		d.subsets = append(d.subsets, subset{Subset: s, obj: obj, index: i})
	}
	return d
}

// private: no other namespace may use the rule.
func (d *destinationRule) private() bool {
	return len(d.exportTo) == 1 && (d.exportTo[0] == "." || d.exportTo[0] == d.obj.Namespace)
}

// local: the rule's own namespace may use it.
func (d *destinationRule) local() bool {
	return len(d.exportTo) == 0 || slices.ContainsFunc(d.exportTo, func(e string) bool {
		return e == "*" || e == "." || e == d.obj.Namespace
	})
}

// absorb adds a later rule of the same host: subsets of new names, and the traffic
// policy if there is none yet.
func (d *destinationRule) absorb(later *destinationRule) {
	for _, s := range later.subsets {
		if d.subset(s.Name) == nil {
			d.subsets = append(d.subsets, s)
		}
	}
	if d.policy == nil {
		d.policy, d.policyObj = later.policy, later.policyObj
	}
}

// ruleIndex finds the rules of a host among those of one namespace.
type ruleIndex map[string]*hostMap[[]*destinationRule]

// add enters a rule, merging it into one that is there for the same host, workloads
// and audience. A rule for a larger audience is merged and stands for itself as well,
// as istiod does it (ENABLE_ENHANCED_DESTINATIONRULE_MERGE).
func (idx ruleIndex) add(host string, d *destinationRule) {
	rules := idx[d.obj.Namespace]
	if rules == nil {
		rules = newHostMap[[]*destinationRule]()
		idx[d.obj.Namespace] = rules
	}
	have, _ := rules.at(host)
	separate := true
	for _, first := range have {
		if first.selective != d.selective || !maps.Equal(first.selector, d.selector) {
			continue
		}
		switch {
		case slices.Equal(first.exportTo, d.exportTo):
			separate = false
			first.absorb(d)
		case len(first.exportTo) > 0 && includes(d.exportTo, first.exportTo):
			first.absorb(d)
		}
	}
	if separate {
		// Each index merges into its own copy.
		c := *d
		c.subsets = slices.Clone(d.subsets)
		rules.set(host, append(have, &c))
	}
}

// includes reports whether all of part is in whole.
func includes(whole, part []string) bool {
	for _, p := range part {
		if !slices.Contains(whole, p) {
			return false
		}
	}
	return true
}

func (idx ruleIndex) find(namespace, host string) []*destinationRule {
	if rules := idx[namespace]; rules != nil {
		found, _ := rules.find(host)
		return found
	}
	return nil
}

// destinationRules chooses the rule of a service for one proxy.
type destinationRules struct {
	namespace, root string
	labels          map[string]string
	local           ruleIndex // rules that their own namespace may use
	exported        ruleIndex // rules that others may use
	rootPrivate     ruleIndex // of the root namespace, rules that others may not use
}

// newDestinationRules indexes all DestinationRules. Those with a workloadSelector
// come first; otherwise the order is that of the objects.
func newDestinationRules(objs []*source.Object, o *Options) *destinationRules {
	r := &destinationRules{
		namespace: o.Namespace, root: o.RootNamespace, labels: o.Labels,
		local: ruleIndex{}, exported: ruleIndex{}, rootPrivate: ruleIndex{},
	}
	for _, selective := range [...]bool{true, false} {
		for _, obj := range objs {
			spec, ok := obj.Spec.(*networking.DestinationRule)
			if !ok || (spec.WorkloadSelector != nil) != selective {
				continue
			}
			d := newDestinationRule(obj, spec)
			host := qualify(spec.Host, obj.Namespace, o.DomainSuffix)
			if d.local() {
				r.local.add(host, d)
			}
			if !d.private() {
				r.exported.add(host, d)
			} else if obj.Namespace == r.root {
				r.rootPrivate.add(host, d)
			}
		}
	}
	return r
}

// of returns the rule for a service: from the proxy's namespace, else the service's,
// else the root namespace. A proxy of the root namespace starts with the service's
// unless a rule is the root namespace's alone: what is written there is mostly meant
// for everyone.
func (r *destinationRules) of(s *service) *destinationRule {
	first := r.local
	if r.namespace == r.root {
		first = r.rootPrivate
	}
	if found := first.find(r.namespace, s.host); found != nil {
		return r.choose(found)
	}
	for _, ns := range [...]string{s.namespace, r.root} {
		var visible []*destinationRule
		for _, d := range r.exported.find(ns, s.host) {
			if len(d.exportTo) == 0 || slices.Contains(d.exportTo, "*") || slices.Contains(d.exportTo, r.namespace) {
				visible = append(visible, d)
			}
		}
		if visible != nil {
			return r.choose(visible)
		}
	}
	return nil
}

// choose takes the rule that selects this very workload, else one for all workloads.
func (r *destinationRules) choose(rules []*destinationRule) *destinationRule {
	var general *destinationRule
	for _, d := range rules {
		if !d.selective {
			general = d
		} else if d.obj.Namespace == r.namespace && isSubset(d.selector, r.labels) {
			return d
		}
	}
	return general
}
