// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	nethttp "net/http"
	"net/url"
	"slices"
	"strings"
)

// The levels that log/slog has no name for.
const (
	LevelTrace    = slog.LevelDebug - 4
	LevelCritical = slog.LevelError + 4
	// LevelOff is above every record's level.
	LevelOff = slog.Level(1 << 20)
)

type namedLevel struct {
	name  string
	level slog.Level
}

// levels are Envoy's, from the most talkative.
func levels() []namedLevel {
	return []namedLevel{{"trace", LevelTrace}, {"debug", slog.LevelDebug}, {"info", slog.LevelInfo},
		{"warning", slog.LevelWarn}, {"error", slog.LevelError}, {"critical", LevelCritical}, {"off", LevelOff}}
}

// ParseLevel returns the level of one of Envoy's names: trace, debug, info,
// warning (or warn), error, critical, off.
func ParseLevel(name string) (slog.Level, error) {
	if name == "warn" {
		name = "warning"
	}
	for _, l := range levels() {
		if l.name == name {
			return l.level, nil
		}
	}
	return 0, fmt.Errorf("unknown logger level %q", name)
}

// levelName returns the name of the highest level that isn't above l.
func levelName(l slog.Level) string {
	name := levels()[0].name
	for _, have := range levels() {
		if have.level <= l {
			name = have.name
		}
	}
	return name
}

// LevelVars are loggers whose levels are slog's variables, by name. The map
// is immutable; what it points to may be used by any handler.
type LevelVars map[string]*slog.LevelVar

// Levels returns every logger's level.
func (v LevelVars) Levels() map[string]slog.Level {
	out := make(map[string]slog.Level, len(v))
	for name, l := range v {
		out[name] = l.Level()
	}
	return out
}

// SetLevel changes one logger's level.
func (v LevelVars) SetLevel(name string, level slog.Level) bool {
	l, ok := v[name]
	if ok {
		l.Set(level)
	}
	return ok
}

// serveLogging shows the levels after it has changed some: all by level=, one
// by its name, or several by paths=. Of a request with a mistake nothing is
// done.
func (h *handler) serveLogging(w nethttp.ResponseWriter, _ *nethttp.Request, q url.Values) {
	change, err := levelChanges(q, h.Loggers.Levels())
	text := ""
	if err != nil {
		w.WriteHeader(nethttp.StatusBadRequest)
		text = "error: " + err.Error() + "\n\n" + loggingUsage()
	}
	for _, name := range slices.Sorted(maps.Keys(change)) {
		h.Loggers.SetLevel(name, change[name])
	}
	now := h.Loggers.Levels()
	text += "active loggers:\n"
	for _, name := range slices.Sorted(maps.Keys(now)) {
		text += fmt.Sprintf("  %s: %s\n", name, levelName(now[name]))
	}
	writeText(w, text)
}

// levelChanges reads the new levels out of a query.
func levelChanges(q url.Values, have map[string]slog.Level) (map[string]slog.Level, error) {
	change := map[string]slog.Level{}
	if len(q) == 0 {
		return change, nil
	}
	if len(q) > 1 {
		return nil, errors.New("more than one parameter")
	}
	set := func(name, level string) error {
		if _, ok := have[name]; !ok {
			return fmt.Errorf("unknown logger %q", name)
		}
		l, err := ParseLevel(level)
		if err == nil {
			change[name] = l
		}
		return err
	}
	for key, values := range q {
		value := values[0]
		switch {
		case key == "level":
			for name := range have {
				if err := set(name, value); err != nil {
					return nil, err
				}
			}
		case key == "paths":
			for item := range strings.SplitSeq(value, ",") {
				name, level, ok := strings.Cut(item, ":")
				if !ok || name == "" || level == "" {
					return nil, fmt.Errorf("%q in paths isn't name:level", item)
				}
				if err := set(name, level); err != nil {
					return nil, err
				}
			}
		default:
			if err := set(key, value); err != nil {
				return nil, err
			}
		}
	}
	return change, nil
}

func loggingUsage() string {
	var names []string
	for _, l := range levels() {
		names = append(names, l.name)
	}
	return "usage: /logging?level=<level> (all loggers)\n" +
		"usage: /logging?<name>=<level> (one logger)\n" +
		"usage: /logging?paths=<name>:<level>,<name>:<level>\n" +
		"levels: " + strings.Join(names, " ") + "\n"
}
