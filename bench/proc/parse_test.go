// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// procStat is a /proc/PID/stat line with a hostile command name.
const procStat = "4242 (a) b (c d) S 1 4000 4000 0 -1 4194560 900 0 0 0 123 45 6 7 20 0 3 0 99 1000 200 184467 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n"

func TestParseStat(t *testing.T) {
	got, err := parseStat([]byte(procStat))
	want := stat{pgrp: 4000, user: 1230 * time.Millisecond, system: 450 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("parseStat = %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "1 x S 1 2", "1 (x) S 1 2 3", "1 (x) S 1 two " + strings.Repeat("0 ", 20)} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) = %+v without an error", bad, s)
		}
	}
}

func TestParseFields(t *testing.T) {
	const rollup = "55fe91159000-7ffd6d3a8000 ---p 00000000 00:00 0                          [rollup]\n" +
		"Rss:                1604 kB\nPss_Anon:            108 kB\nAnonymous:           108 kB\n"
	const status = "Name:\tRss: 5\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n"
	cases := []struct {
		text string
		keys []string
		want map[string]int64
		err  string
	}{
		{rollup, []string{"Rss", "Anonymous"}, map[string]int64{"Rss": 1604, "Anonymous": 108}, ""},
		{status, []string{"voluntary_ctxt_switches"}, map[string]int64{"voluntary_ctxt_switches": 12}, ""},
		{rollup, []string{"Swap"}, nil, `no line "Swap"`},
		{"Rss:\n", []string{"Rss"}, nil, "no value"},
		{"Rss: many kB\n", []string{"Rss"}, nil, "Rss"},
	}
	for _, c := range cases {
		got, err := parseFields([]byte(c.text), c.keys...)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v: error %v, want one with %q", c.keys, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %v, %v, want %v", c.keys, got, err, c.want)
		}
	}
}

func TestParseBusy(t *testing.T) {
	// user 1 nice 2 system 3 idle 4 iowait 5 irq 6 softirq 7 steal 8 guest 9
	got, err := parseBusy([]byte("cpu  100 200 300 400 500 600 700 800 900 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"))
	if want := 19 * time.Second; err != nil || got != want {
		t.Errorf("parseBusy = %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"} {
		if d, err := parseBusy([]byte(bad)); err == nil {
			t.Errorf("parseBusy(%q) = %v without an error", bad, d)
		}
	}
}

func TestCPUModel(t *testing.T) {
	if got := cpuModel([]byte("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n")); got != "AMD EPYC" {
		t.Errorf("cpuModel = %q", got)
	}
	if got := cpuModel([]byte("processor\t: 0\nBogoMIPS\t: 50.00\n")); got != "" {
		t.Errorf("cpuModel of a machine without the line = %q", got)
	}
}

func TestReadHost(t *testing.T) {
	h := ReadHost()
	if h.Cores < 1 || h.MemoryMB < 1 || !strings.HasPrefix(h.Kernel, "Linux ") || h.Go == "" || h.Arch == "" {
		t.Errorf("ReadHost = %+v", h)
	}
}
