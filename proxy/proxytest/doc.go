// SPDX-License-Identifier: Apache-2.0

// Package proxytest is what the tests of several packages share. Only tests
// import it.
package proxytest

import "testing"

// NoAllocs fails if f allocates in steady state.
func NoAllocs(t *testing.T, what string, f func()) {
	t.Helper()
	if Race {
		f()
		return
	}
	if n := testing.AllocsPerRun(200, f); n > 0 {
		t.Errorf("%s allocates %v times", what, n)
	}
}
