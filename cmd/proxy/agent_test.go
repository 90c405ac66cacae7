// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"pillion/proxy/admin"
)

func TestPodArgs(t *testing.T) {
	for line, want := range map[string]string{
		"/usr/local/bin/pilot-agent proxy sidecar --domain x": "sidecar --domain x",
		"pilot-agent proxy router":                            "router",
		"pilot-agent proxy":                                   "sidecar",
		"pilot-agent proxy --domain x":                        "sidecar --domain x",
		"pilot-agent proxy --help":                            "--help",
		"pilot-agent request GET x":                           "request GET x",
		"pilot-agent":                                         "",
		"proxy":                                               "",
		"proxy proxy sidecar":                                 "sidecar",
		"proxy sidecar":                                       "sidecar",
		"proxy proxy --version":                               "--version",
		"proxy run proxy":                                     "run proxy",
	} {
		if got := strings.Join(podArgs(strings.Fields(line)), " "); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestNoteUnknownFlags(t *testing.T) {
	for line, want := range map[string]string{
		"sidecar --domain x --log_as_json -h":  "",
		"sidecar --a --b=1 --domain x --c x":   "--a --b --c",
		"sidecar -- --a":                       "",
		"request --context=x GET y":            "--context",
		"wait --timeoutSeconds 3 --timeoutSec": "--timeoutSec",
		"nothing --a":                          "",
		"run --a":                              "", // it refuses them itself
	} {
		root := newRoot()
		args := strings.Fields(line)
		noteUnknownFlags(root, args)
		cmd, _, _ := root.Find(args)
		if got := cmd.Annotations[unknownFlags]; got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestParseLevels(t *testing.T) {
	for text, want := range map[string]slog.Level{
		"": slog.LevelInfo, "warning": slog.LevelWarn, "trace": admin.LevelTrace, "off": admin.LevelOff, "none": admin.LevelOff, "critical": admin.LevelCritical,
		"info,misc:error": slog.LevelInfo, "misc:error": slog.LevelInfo, "default:debug": slog.LevelDebug, "xds:debug, default:error ,": slog.LevelError,
	} {
		if got, err := parseLevels("proxyLogLevel", text, slog.LevelInfo); got != want || err != nil {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"loud", "misc:", "info;debug", ":"} {
		if _, err := parseLevels("proxyLogLevel", text, slog.LevelInfo); err == nil || !strings.Contains(err.Error(), "--proxyLogLevel") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if !slices.Contains(strings.Fields(newPodCommand("sidecar").UsageString()), "--proxyLogLevel") {
		t.Error("the help doesn't name --proxyLogLevel")
	}
}
