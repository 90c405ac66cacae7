// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
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
		if got, _, err := parseLevels("proxyLogLevel", text, slog.LevelInfo); got != want || err != nil {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"loud", "misc:", "info;debug", ":"} {
		if _, _, err := parseLevels("proxyLogLevel", text, slog.LevelInfo); err == nil || !strings.Contains(err.Error(), "--proxyLogLevel") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if !slices.Contains(strings.Fields(newPodCommand("sidecar").UsageString()), "--proxyLogLevel") {
		t.Error("the help doesn't name --proxyLogLevel")
	}
}

// TestProxyLevels: the levels of single loggers go before that of all.
func TestProxyLevels(t *testing.T) {
	for flags, want := range map[[2]string]string{ // of config, of misc, of upstream; unknown names
		{"warning", "misc:error"}:                        "warning error warning []",
		{"info,config:debug", "misc:off,upstream:trace"}: "debug off trace []",
		{"", "config:info,none_such:debug"}:              "info warning warning [none_such]",
	} {
		levels, unknown, err := proxyLevels(flags[0], flags[1])
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, name := range []string{"config", "misc", "upstream"} {
			got += admin.LevelName(levels.Level(name)) + " "
		}
		if got += fmt.Sprint(unknown); got != want {
			t.Errorf("%q: %s, want %s", flags, got, want)
		}
	}
	if _, _, err := proxyLevels("info", "misc:loud"); err == nil || !strings.Contains(err.Error(), "--proxyComponentLogLevel") {
		t.Errorf("%v", err)
	}
}

// TestAgentLevels: Istio's agent has gRPC's lines as a scope of its own.
func TestAgentLevels(t *testing.T) {
	for text, want := range map[string][2]string{ // of the agent's lines, of gRPC's
		"default:info":       {"info", "warning"},
		"error,grpc:debug":   {"error", "debug"},
		"grpc:none,xds:info": {"info", "off"},
	} {
		levels := admin.NewLevels(slog.LevelWarn)
		got, err := agentLevels(text, levels)
		if err != nil || admin.LevelName(got) != want[0] || admin.LevelName(levels.Level("grpc")) != want[1] || levels.Level("xds") != admin.LevelOff {
			t.Errorf("%s: %v, gRPC's %v, %v; want %v", text, got, levels.Level("grpc"), err, want)
		}
	}
}
