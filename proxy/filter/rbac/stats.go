// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"strings"
	"sync"

	"pillion/proxy/stats"
)

// Stats are the counters of one connection manager, or of one stat_prefix of
// network filters. They live on between configurations.
type Stats struct {
	mu  sync.Mutex
	all []verdictNames // guarded by mu; in the order of their making
}

// verdictNames are two counters under their names.
type verdictNames struct {
	prefix, policy  string
	shadow          bool
	allowed, denied string // names below "rbac."
	verdicts        *Verdicts
}

// Verdicts returns the counters of the rules of a prefix, or of one of their
// policies (Envoy: RBAC::generateStats, generatePerPolicyStats).
func (s *Stats) Verdicts(prefix, policy string, shadow bool) *Verdicts {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.all {
		if v := &s.all[i]; v.prefix == prefix && v.policy == policy && v.shadow == shadow {
			return v.verdicts
		}
	}
	name := "rbac." + prefix
	if !strings.HasSuffix(name, ".") {
		name += "."
	}
	if policy != "" {
		name += "policy." + policy + "."
	}
	if shadow {
		name += "shadow_"
	}
	v := verdictNames{prefix: prefix, policy: policy, shadow: shadow, allowed: name + "allowed", denied: name + "denied", verdicts: &Verdicts{}}
	s.all = append(s.all, v)
	return v.verdicts
}

// CollectHTTP reports http.<prefix>.rbac.*.
func (s *Stats) CollectHTTP(e *stats.Emitter, prefix string) {
	sc := e.HTTP(prefix)
	s.each(func(name string, v uint64) { sc.Counter(name, v) })
}

// CollectNetwork reports <prefix>rbac.*, which Istio makes tcp.rbac.*.
func (s *Stats) CollectNetwork(e *stats.Emitter, prefix string) {
	if !strings.HasSuffix(prefix, ".") {
		prefix += "."
	}
	s.each(func(name string, v uint64) { e.Counter(prefix+name, "", v) })
}

func (s *Stats) each(f func(name string, v uint64)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.all {
		v := &s.all[i]
		f(v.allowed, v.verdicts.Allowed.Value())
		f(v.denied, v.verdicts.Denied.Value())
	}
}
