// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"sync"

	"pillion/proxy/stats"
)

// outcome is what is counted of a check.
type outcome uint8

const (
	outcomeOK outcome = iota
	outcomeDenied
	outcomeError
	outcomeInvalid
	outcomeFailureAllowed
	numOutcomes
)

var outcomeNames = [numOutcomes]string{"ok", "denied", "error", "invalid", "failure_mode_allowed"}

// counters are those of one cluster, or of the filter.
type counters struct{ by [numOutcomes]stats.Counter }

// Stats are the counters of all filters of one connection manager with one
// stat_prefix, below "http.<prefix>.ext_authz." and below
// "cluster.<name>.ext_authz.", where name is the cluster that the request would
// have gone to. They are safe for concurrent use.
type Stats struct {
	prefix string // stat_prefix of the filter with a dot behind it, or empty
	all    struct {
		counters
		disabled, ignoredMetadata stats.Counter
	}

	clusters sync.Map // of name to *counters; their number is that of configured names
}

// NewStats returns the counters of a stat_prefix.
func NewStats(prefix string) *Stats {
	if prefix != "" {
		prefix += "."
	}
	return &Stats{prefix: prefix}
}

// of returns the counters of a cluster, nil for none.
func (s *Stats) of(cluster string) *counters {
	if cluster == "" {
		return nil
	}
	c, ok := s.clusters.Load(cluster)
	if !ok {
		c, _ = s.clusters.LoadOrStore(cluster, &counters{})
	}
	return c.(*counters)
}

func (s *Stats) count(c *counters, o outcome) {
	s.all.by[o].Inc()
	if c != nil {
		c.by[o].Inc()
	}
}

// Collect reports the counters of the connection manager prefix. statName says what a
// cluster is called in metrics; one that is gone has none any more.
func (s *Stats) Collect(e *stats.Emitter, prefix string, statName func(cluster string) (string, bool)) {
	h := e.HTTP(prefix)
	h.Counter("ext_authz."+s.prefix+"disabled", s.all.disabled.Value())
	h.Counter("ext_authz."+s.prefix+"ignored_dynamic_metadata", s.all.ignoredMetadata.Value())
	s.all.collect(h, s.prefix)
	s.clusters.Range(func(name, c any) bool {
		if shown, ok := statName(name.(string)); ok {
			c.(*counters).collect(e.Cluster(shown), s.prefix)
		}
		return true
	})
}

func (c *counters) collect(s stats.Scope, prefix string) {
	for o := range numOutcomes {
		s.Counter("ext_authz."+prefix+outcomeNames[o], c.by[o].Value())
	}
}
