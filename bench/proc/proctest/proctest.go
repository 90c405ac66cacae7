// SPDX-License-Identifier: Apache-2.0

// Package proctest is for tests whose own binary is the program that they start.
package proctest

import (
	"os"
	"testing"
)

// Run runs the tests and ends the process.
//
// Under the race detector a program that ends sleeps for a second first, so that what
// other threads are about to report is not lost (GORACE=atexit_sleep_ms). Tests that
// start it a hundred times do little else. What is started doesn't sleep, unless GORACE
// says so; the tests themselves do.
func Run(m *testing.M) {
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")) // fails for no such value
	os.Exit(m.Run())
}
