// SPDX-License-Identifier: Apache-2.0

package router

import "pillion/proxy/match"

// Mirror sends copies of a share of a route's requests to another cluster,
// whose answers are dropped. Immutable.
type Mirror struct {
	Cluster  Cluster
	Fraction match.Fraction
	// KeepHost leaves the authority as it is; otherwise "-shadow" is put
	// behind the host, so that the copy can be told from the original.
	KeepHost bool
	// Host replaces the authority unless it is empty.
	Host string
	// Traced overrides whether the copy is traced if HasTraced is set.
	Traced, HasTraced bool
}

// Mirrors returns the mirrors of the route.
func (r *Route) Mirrors() []Mirror {
	if r.More == nil {
		return nil
	}
	return r.More.Mirrors
}

// Takes reports whether mirror i of a route takes a request. random may be
// that of Match; the choice is independent of it and of the other mirrors'.
func (m *Mirror) Takes(random uint64, i int) bool {
	return m.Fraction.Takes(match.Mix(random, saltMirror+uint64(i)))
}
