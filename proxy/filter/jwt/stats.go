// SPDX-License-Identifier: Apache-2.0

package jwt

import "pillion/proxy/stats"

// Stats count under Envoy's names (http.<stat_prefix>.jwt_authn.*). They are
// shared by the filters of one connection manager that have one stat_prefix of
// their own.
type Stats struct {
	Allowed, Denied, Preflight stats.Counter
	FetchSuccess, FetchFailed  stats.Counter
	CacheHit, CacheMiss        stats.Counter
}

// Collect reports the counters of the connection manager prefix; own is the
// filter's stat_prefix.
func (s *Stats) Collect(e *stats.Emitter, prefix, own string) {
	sc := e.HTTP(prefix)
	name := "jwt_authn." + own
	sc.Counter(name+"allowed", s.Allowed.Value())
	sc.Counter(name+"denied", s.Denied.Value())
	sc.Counter(name+"cors_preflight_bypassed", s.Preflight.Value())
	sc.Counter(name+"jwks_fetch_success", s.FetchSuccess.Value())
	sc.Counter(name+"jwks_fetch_failed", s.FetchFailed.Value())
	sc.Counter(name+"jwt_cache_hit", s.CacheHit.Value())
	sc.Counter(name+"jwt_cache_miss", s.CacheMiss.Value())
}
