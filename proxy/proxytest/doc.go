// SPDX-License-Identifier: Apache-2.0

// Package proxytest is what the tests of several packages share. Only tests
// import it.
package proxytest

import "testing"

// NoAllocs fails if f allocates in steady state.
func NoAllocs(t *testing.T, what string, f func()) {
	t.Helper()
	MaxAllocs(t, what, 0, f)
}

// MaxAllocs fails if f allocates more than most times in steady state.
func MaxAllocs(t *testing.T, what string, most float64, f func()) {
	t.Helper()
	if Race {
		f()
		return
	}
	if n := testing.AllocsPerRun(200, f); n > most {
		t.Errorf("%s allocates %v times", what, n)
	}
}
