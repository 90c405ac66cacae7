// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"pillion/proxy/admin"
)

// envoyLevels are the names of --proxyLogLevel and of --log_output_level.
var envoyLevels = map[string]slog.Level{
	"trace": admin.LevelTrace, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "warn": slog.LevelWarn,
	"error": slog.LevelError, "err": slog.LevelError, "critical": admin.LevelCritical, "fatal": admin.LevelCritical, "off": admin.LevelOff, "none": admin.LevelOff,
}

// parseLevels reads a mix such as "info,misc:error": the level of all, which Istio
// names "default" as well, and those of components.
func parseLevels(flag, text string, def slog.Level) (all slog.Level, components map[string]slog.Level, err error) {
	all, components = def, map[string]slog.Level{}
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		component, name, ok := strings.Cut(item, ":")
		if !ok {
			component, name = "default", item
		}
		l, known := envoyLevels[strings.ToLower(name)]
		if !known {
			return 0, nil, usageError{fmt.Errorf("--%s: %q is none of trace, debug, info, warning, error, critical, off, nor COMPONENT:LEVEL", flag, item)}
		}
		if component == "default" {
			all = l
		} else {
			components[component] = l
		}
	}
	return all, components, nil
}

// proxyLevels are the levels of the proxy's loggers as two flags of Envoy's agent
// say; unknown names loggers that there are none of.
func proxyLevels(level, components string) (levels *admin.Levels, unknown []string, err error) {
	all, some, err := parseLevels("proxyLogLevel", level, slog.LevelWarn)
	if err != nil {
		return nil, nil, err
	}
	_, more, err := parseLevels("proxyComponentLogLevel", components, all)
	if err != nil {
		return nil, nil, err
	}
	maps.Copy(some, more)
	levels = admin.NewLevels(all)
	for _, name := range slices.Sorted(maps.Keys(some)) {
		if !levels.Set(name, some[name]) {
			unknown = append(unknown, name)
		}
	}
	return levels, unknown, nil
}

// agentLevels is the level of the agent's lines as its flag says. Of its scopes one is a
// logger of the proxy, gRPC, whose level is set.
func agentLevels(text string, levels *admin.Levels) (slog.Level, error) {
	all, scopes, err := parseLevels("log_output_level", text, slog.LevelInfo)
	if l, ok := scopes[admin.LoggerGRPC]; ok {
		levels.Set(admin.LoggerGRPC, l)
	}
	return all, err
}

// newLogger logs as people read it, or as JSON.
func newLogger(w io.Writer, level slog.Leveler, asJSON bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
