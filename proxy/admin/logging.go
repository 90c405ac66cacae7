// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"errors"
	"fmt"
	"log/slog"
	nethttp "net/http"
	"net/url"
	"strings"
)

// serveLogging shows the levels after it has changed some: all by level=, one
// by its name, or several by paths=. Of a request with a mistake nothing is
// done. The texts are Envoy's (source/server/admin/logs_handler.cc).
func (h *handler) serveLogging(w nethttp.ResponseWriter, _ *nethttp.Request, q url.Values) {
	change, err := h.levelChange(q)
	var b strings.Builder
	if err != nil {
		w.WriteHeader(nethttp.StatusBadRequest)
		b.WriteString("error: " + err.Error() + "\n\n" + loggingUsage())
	} else if change != nil {
		change()
	}
	b.WriteString("active loggers:\n")
	for _, name := range h.Loggers.names {
		fmt.Fprintf(&b, "  %s: %s\n", name, LevelName(h.Loggers.vars[name].Level()))
	}
	b.WriteByte('\n')
	writeText(w, b.String())
}

// levelChange reads what a query asks for; nil for nothing, which one without a
// value does.
func (h *handler) levelChange(q url.Values) (change func(), err error) {
	if len(q) > 1 {
		return nil, errors.New("invalid number of parameters")
	}
	for key, values := range q {
		value := values[0]
		switch {
		case value == "":
			return nil, nil
		case key == "paths":
			return h.pathsChange(value)
		case key == "level":
			level, err := ParseLevel(value)
			return func() { h.Loggers.SetAll(level) }, err
		}
		return h.pathsChange(key + ":" + value)
	}
	return nil, nil
}

// pathsChange reads name:level,name:level.
func (h *handler) pathsChange(list string) (change func(), err error) {
	wanted := map[string]slog.Level{}
	for item := range strings.SplitSeq(list, ",") {
		if item == "" {
			continue
		}
		name, text, _ := strings.Cut(item, ":")
		if name == "" || text == "" {
			return nil, errors.New("empty logger name or empty logger level")
		}
		level, err := ParseLevel(text)
		if err != nil {
			return nil, err
		}
		if h.Loggers.vars[name] == nil {
			return nil, fmt.Errorf("unknown logger name %q", name)
		}
		wanted[name] = level
	}
	return func() {
		for name, level := range wanted {
			h.Loggers.Set(name, level)
		}
	}, nil
}

func loggingUsage() string {
	text := "usage: /logging?<name>=<level> (change single level)\n" +
		"usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n" +
		"usage: /logging?level=<level> (change all levels)\n" +
		"levels: "
	for _, l := range levels() {
		text += l.name + " "
	}
	return text + "\n"
}
