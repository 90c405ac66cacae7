// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"

	"pillion/proxy/accesslog"
	"pillion/proxy/admin"
	"pillion/proxy/http"
)

// TestAccessLogsSayWhereOthersDo: what fails of an access log is a line of the proxy's
// log, as far as the level of its logger lets it through.
func TestAccessLogsSayWhereOthersDo(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelWarn: 1, admin.LevelOff: 0} {
		var out bytes.Buffer
		levels := admin.NewLevels(admin.LevelOff)
		levels.Set("file", level)
		s, err := New(Options{Levels: levels, Logger: slog.New(slog.NewJSONHandler(&out, nil))})
		if err != nil {
			t.Fatal(err)
		}
		l, err := accesslog.Parse(&filev3.FileAccessLog{Path: "/dev/full"}, s.sinks)
		if err != nil {
			t.Fatal(err)
		}
		l.Log(&http.Exchange{Conn: &http.ConnInfo{}})
		s.stopAll() // the sinks have written what they had
		if got := out.String(); strings.Count(got, "\n") != want || strings.Count(got, `"level":"WARN","msg":"access log lines are lost`) != want {
			t.Errorf("at level %s: %q", admin.LevelName(level), got)
		}
	}
}
