// SPDX-License-Identifier: Apache-2.0

//go:build race

package proxytest

// Race reports whether the race detector is on. It makes sync.Pool drop items
// at random, so that counts of allocations mean nothing.
const Race = true
