// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/grpclog"

	"pillion/proxy/admin"
)

// TestGRPCLines: what gRPC says comes out in our form, as the level of its logger has it
// now.
func TestGRPCLines(t *testing.T) {
	core := grpclog.Component("core")
	var out bytes.Buffer
	taken := func() string {
		defer out.Reset()
		return out.String()
	}
	say := func() {
		core.Info("created")
		core.Warningf("addrConn %d: no connection", 7)
		core.Error("too many", "pings\n")
		if core.V(2) {
			core.Infof("chatter")
		}
	}
	levels := admin.NewLevels(slog.LevelWarn)
	newProxyLogger(&out, levels, true)
	say()
	var line struct{ Level, Msg string }
	text := taken()
	if err := json.Unmarshal([]byte(text), &line); err != nil || line.Level != "WARN" || line.Msg != "gRPC: [core] too many pings" {
		t.Errorf("by default %q, %v; want one line of JSON, the error", text, err)
	}
	for _, c := range []struct {
		level slog.Level
		want  []string
	}{
		{slog.LevelError, nil},
		{slog.LevelInfo, []string{"too many"}},
		{slog.LevelDebug, []string{"created", "addrConn 7: no connection", "too many"}},
		{admin.LevelTrace, []string{"created", "addrConn 7: no connection", "too many", "chatter"}},
		{admin.LevelOff, nil},
	} {
		levels.SetAll(admin.LevelTrace)
		levels.Set("grpc", c.level)
		say()
		got := strings.Split(strings.TrimSuffix(taken(), "\n"), "\n")
		if got[0] == "" {
			got = nil
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", admin.LevelName(c.level), got, c.want)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(got[i], want) {
				t.Errorf("%s: line %d is %q, want %q", admin.LevelName(c.level), i, got[i], want)
			}
		}
	}
}

// TestGRPCLinesOfRun: `proxy run` says where they go.
func TestGRPCLinesOfRun(t *testing.T) {
	var out bytes.Buffer
	f := runFlags{logLevel: "info"}
	if _, err := f.proxyOptions(&out); err != nil {
		t.Fatal(err)
	}
	grpclog.Component("transport").Errorf("GOAWAY")
	if got := out.String(); !strings.Contains(got, `level=WARN msg="gRPC: [transport]`) || !strings.Contains(got, "GOAWAY") {
		t.Errorf("%q", got)
	}
}
