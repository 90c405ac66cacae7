// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"pillion/proxy/admin"
)

// envoyLevels are the names of --proxyLogLevel and of --log_output_level.
var envoyLevels = map[string]slog.Level{
	"trace": admin.LevelTrace, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "warn": slog.LevelWarn,
	"error": slog.LevelError, "err": slog.LevelError, "critical": admin.LevelCritical, "fatal": admin.LevelCritical, "off": admin.LevelOff, "none": admin.LevelOff,
}

// parseLevels reads a mix such as "info,misc:error": the level of all, and those
// of components. There is one logger, so that only the first counts; Istio names
// it "default" as well.
func parseLevels(flag, text string, def slog.Level) (slog.Level, error) {
	level := def
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
			return 0, usageError{fmt.Errorf("--%s: %q is none of trace, debug, info, warning, error, critical, off, nor COMPONENT:LEVEL", flag, item)}
		}
		if component == "default" {
			level = l
		}
	}
	return level, nil
}

// newLogger logs as people read it, or as JSON.
func newLogger(w io.Writer, level slog.Leveler, asJSON bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
