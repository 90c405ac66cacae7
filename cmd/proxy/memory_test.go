// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	for _, tc := range []struct {
		name  string
		env   string
		limit memlimit.Provider
		want  int64
		log   string
	}{
		{"a container of 128 MiB", "", memlimit.Limit(128 << 20), 120795955, ""},
		{"GOMEMLIMIT is set", "64MiB", memlimit.Limit(128 << 20), 1 << 30, ""},
		{"no limit", "", func() (uint64, error) { return 0, memlimit.ErrNoLimit }, math.MaxInt64, ""},
		{"nobody knows", "", func() (uint64, error) { return 0, errors.New("no cgroups") }, 1 << 30, "no cgroups"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", tc.env)
			if tc.env == "" {
				if err := os.Unsetenv("GOMEMLIMIT"); err != nil {
					t.Fatal(err)
				}
			}
			debug.SetMemoryLimit(1 << 30)
			var b bytes.Buffer
			limitMemory(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), tc.limit)
			if got := debug.SetMemoryLimit(-1); got != tc.want {
				t.Errorf("%d, want %d", got, tc.want)
			}
			if tc.log == "" && b.Len() > 0 || !strings.Contains(b.String(), tc.log) {
				t.Errorf("log %q", b.String())
			}
		})
	}
}
