// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"google.golang.org/grpc/grpclog"

	"pillion/proxy/admin"
)

// newProxyLogger is the logger of a proxy, which takes the lines of all levels: levels
// choose. gRPC's own lines go there too, whose logger is the one of the process.
func newProxyLogger(w io.Writer, levels *admin.Levels, asJSON bool) *slog.Logger {
	log := newLogger(w, admin.LevelTrace, asJSON)
	grpclog.SetLoggerV2(grpcLog{levels.Logger(admin.LoggerGRPC, log)})
	return log
}

// grpcLog writes what gRPC has to say. Who called knows what a failure means and says so
// once, so that each attempt which failed, of which gRPC warns, is for those who look
// for a fault (Istio's agent shows none of its lines unless asked, pkg/log/options.go),
// and its errors are our warnings.
type grpcLog struct{ log *slog.Logger }

const (
	grpcInfo, grpcWarning = slog.LevelDebug, slog.LevelDebug
	grpcError             = slog.LevelWarn
	grpcFatal             = admin.LevelCritical // grpclog ends the process behind it
)

func (g grpcLog) Info(args ...any)                    { g.print(grpcInfo, args) }
func (g grpcLog) Infoln(args ...any)                  { g.println(grpcInfo, args) }
func (g grpcLog) Infof(format string, args ...any)    { g.printf(grpcInfo, format, args) }
func (g grpcLog) Warning(args ...any)                 { g.print(grpcWarning, args) }
func (g grpcLog) Warningln(args ...any)               { g.println(grpcWarning, args) }
func (g grpcLog) Warningf(format string, args ...any) { g.printf(grpcWarning, format, args) }
func (g grpcLog) Error(args ...any)                   { g.print(grpcError, args) }
func (g grpcLog) Errorln(args ...any)                 { g.println(grpcError, args) }
func (g grpcLog) Errorf(format string, args ...any)   { g.printf(grpcError, format, args) }
func (g grpcLog) Fatal(args ...any)                   { g.print(grpcFatal, args) }
func (g grpcLog) Fatalln(args ...any)                 { g.println(grpcFatal, args) }
func (g grpcLog) Fatalf(format string, args ...any)   { g.printf(grpcFatal, format, args) }

// V tells whether lines are wanted that gRPC thinks too many by default.
func (g grpcLog) V(l int) bool {
	return l <= 0 || g.log.Enabled(context.Background(), admin.LevelTrace)
}

// A line is only made of its parts if somebody wants it.

func (g grpcLog) print(l slog.Level, args []any) {
	if g.log.Enabled(context.Background(), l) {
		g.line(l, fmt.Sprint(args...))
	}
}

func (g grpcLog) println(l slog.Level, args []any) {
	if g.log.Enabled(context.Background(), l) {
		g.line(l, fmt.Sprintln(args...))
	}
}

func (g grpcLog) printf(l slog.Level, format string, args []any) {
	if g.log.Enabled(context.Background(), l) {
		g.line(l, fmt.Sprintf(format, args...))
	}
}

func (g grpcLog) line(l slog.Level, text string) {
	g.log.Log(context.Background(), l, "gRPC: "+strings.TrimRight(text, "\n"))
}
