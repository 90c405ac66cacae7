// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"fmt"
	"log/slog"
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

// LevelName returns the name of the highest level that isn't above l.
func LevelName(l slog.Level) string {
	name := levels()[0].name
	for _, have := range levels() {
		if have.level <= l {
			name = have.name
		}
	}
	return name
}

// The loggers that lines of ours come from. Each is called as Envoy calls the one
// that tells of the same.
const (
	LoggerAdmin      = "admin"
	LoggerConfig     = "config" // what came from a control plane or from files
	LoggerConnection = "connection"
	LoggerFile       = "file" // access logs
	LoggerGRPC       = "grpc" // what gRPC says of itself
	LoggerListener   = "conn_handler"
	LoggerJWT        = "jwt"
	LoggerMain       = "main"
	LoggerSecret     = "secret"
	LoggerTracing    = "tracing"
	LoggerUpstream   = "upstream"
)

// loggers are Envoy's, in its order (source/common/common/logger.h). istioctl
// changes no level of a name that isn't among them.
func loggers() []string {
	return []string{"a2a", LoggerAdmin, "ai_protocol_manager", "alternate_protocols_cache", "aws", "assert", "backtrace", "basic_auth",
		"cache_filter", "client", LoggerConfig, LoggerConnection, LoggerListener, "compression", "credential_injector", "decompression", "dns",
		"dubbo", "envoy_bug", "ext_authz", "ext_proc", "rocketmq", LoggerFile, "filter", "forward_proxy", "geolocation", LoggerGRPC, "happy_eyeballs",
		"hc", "health_checker", "http", "http2", "hystrix", "init", "io", LoggerJWT, "json_rpc", "kafka", "key_value_store", "lua",
		"local_rate_limit", LoggerMain, "matcher", "mcp", "misc", "mongo", "multi_connection", "notification", "oauth2", "quic", "quic_stream",
		"pool", "rate_limit_quota", "rbac", "rds", "redis", "router", "runtime", "stats", LoggerSecret, "sse", "tap", "testing", "thrift",
		LoggerTracing, LoggerUpstream, "udp", "wasm", "websocket", "golang", "stats_sinks", "dynamic_modules", "ip_tagging"}
}

// Levels are the levels of Envoy's loggers. Safe for concurrent use.
type Levels struct {
	names []string                  // in the order in which they are shown; immutable
	vars  map[string]*slog.LevelVar // immutable
}

// NewLevels returns the levels of all loggers, which begin at level.
func NewLevels(level slog.Level) *Levels {
	l := &Levels{names: loggers(), vars: map[string]*slog.LevelVar{}}
	for _, name := range l.names {
		l.vars[name] = new(slog.LevelVar)
		l.vars[name].Set(level)
	}
	return l
}

// Level returns the level of one logger; LevelOff when there is none of that name.
func (l *Levels) Level(name string) slog.Level {
	if v := l.vars[name]; v != nil {
		return v.Level()
	}
	return LevelOff
}

// Describe returns the level that loggers have, by LoggerMain, and as name:level,…
// those that have another.
func (l *Levels) Describe() (all, others string) {
	all = LevelName(l.Level(LoggerMain))
	for _, name := range l.names {
		if have := LevelName(l.Level(name)); have != all {
			others += "," + name + ":" + have
		}
	}
	return all, strings.TrimPrefix(others, ",")
}

// Set changes the level of one logger. It returns false when there is none of that
// name.
func (l *Levels) Set(name string, level slog.Level) bool {
	v, ok := l.vars[name]
	if ok {
		v.Set(level)
	}
	return ok
}

// SetAll changes all levels.
func (l *Levels) SetAll(level slog.Level) {
	for _, v := range l.vars {
		v.Set(level)
	}
}

// Logger returns the logger of a name, which has to be one of the constants: it
// hands on to log what its level lets through.
func (l *Levels) Logger(name string, log *slog.Logger) *slog.Logger {
	if !slices.Contains(l.names, name) {
		panic("admin: no logger is called " + name)
	}
	return slog.New(gate{log.Handler(), l.vars[name]})
}

// gate hands on what a level lets through.
type gate struct {
	slog.Handler
	level *slog.LevelVar
}

func (g gate) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= g.level.Level() && g.Handler.Enabled(ctx, l)
}

func (g gate) WithAttrs(attrs []slog.Attr) slog.Handler {
	return gate{g.Handler.WithAttrs(attrs), g.level}
}

func (g gate) WithGroup(name string) slog.Handler { return gate{g.Handler.WithGroup(name), g.level} }
