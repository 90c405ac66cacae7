// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Resident returns how much memory the process has resident, in bytes, as the
// kernel counts it.
func (p *Proxy) Resident(t testing.TB) int64 {
	t.Helper()
	return p.process.Resident(t)
}

// Resident returns how much memory the process has resident, in bytes, as the
// kernel counts it.
func (p *Process) Resident(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nVmRSS:")
	line, _, _ := strings.Cut(rest, "\n")
	kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(line, "kB")), 10, 64)
	if err != nil {
		t.Fatalf("the resident memory of %d: %v", p.PID(), err)
	}
	return kib << 10
}

// OpenFiles returns how many files and sockets the process has open.
func (p *Proxy) OpenFiles(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
