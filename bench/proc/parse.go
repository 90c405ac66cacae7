// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc: USER_HZ, which is 100 on every
// architecture that Go runs on (proc(5), sysconf(_SC_CLK_TCK)).
const tick = time.Second / 100

// stat is what is read from /proc/PID/stat.
type stat struct {
	pgrp         int
	user, system time.Duration
}

// parseStat reads a /proc/PID/stat line. The command's name (field 2) may hold
// spaces and parentheses, so fields are counted from the last ')'.
func parseStat(b []byte) (stat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, fmt.Errorf("stat: no ')' after the command's name in %q", b)
	}
	f := strings.Fields(string(b[i+1:]))
	// proc(5): field 3 is the state, 5 the process group, 14 and 15 the times.
	const pgrp, utime, stime = 5 - 3, 14 - 3, 15 - 3
	if len(f) <= stime {
		return stat{}, fmt.Errorf("stat: %d fields after the name, want more than %d", len(f), stime)
	}
	var s stat
	var err error
	if s.pgrp, err = strconv.Atoi(f[pgrp]); err != nil {
		return stat{}, fmt.Errorf("stat: process group: %w", err)
	}
	if s.user, err = ticks(f[utime]); err != nil {
		return stat{}, fmt.Errorf("stat: user time: %w", err)
	}
	if s.system, err = ticks(f[stime]); err != nil {
		return stat{}, fmt.Errorf("stat: system time: %w", err)
	}
	return s, nil
}

func ticks(s string) (time.Duration, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(n) * tick, nil
}

// parseFields reads lines of the form "Key: 123 kB" and returns the first
// number of each wanted key. A missing key is an error.
func parseFields(b []byte, keys ...string) (map[string]int64, error) {
	out := make(map[string]int64, len(keys))
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		key, rest, ok := strings.Cut(sc.Text(), ":")
		if !ok || !slices.Contains(keys, key) {
			continue
		}
		f := strings.Fields(rest)
		if len(f) == 0 {
			return nil, fmt.Errorf("%s has no value", key)
		}
		n, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out[key] = n
	}
	for _, k := range keys {
		if _, ok := out[k]; !ok {
			return nil, fmt.Errorf("no line %q", k)
		}
	}
	return out, nil
}

// parseBusy reads the first line of /proc/stat and returns the time that all
// processors together weren't idle. Guest time is already in user time
// (proc(5)), and stolen time belongs to other machines.
func parseBusy(b []byte) (time.Duration, error) {
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	// cpu user nice system idle iowait irq softirq steal …
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat: first line is %q", line)
	}
	var sum time.Duration
	for _, i := range []int{1, 2, 3, 6, 7} {
		d, err := ticks(f[i])
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: field %d: %w", i, err)
		}
		sum += d
	}
	return sum, nil
}
