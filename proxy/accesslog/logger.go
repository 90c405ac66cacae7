// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/http"
)

// defaultFormat is Envoy's, for a logger that configures none.
const defaultFormat = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" " +
	"%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% " +
	"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" " +
	"\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"

// withoutQueryType is the message of the one formatter extension that is
// known.
const withoutQueryType = "/envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery"

// Logger writes one line for each exchange to one file. It is immutable and
// safe for concurrent use.
type Logger struct {
	text   *template // of a text format, else nil
	json   node
	omit   bool
	filter *Filter
	sink   *sink
}

// Parse compiles the configuration of a file access log. The file is opened
// by sinks, and shared with other loggers of the same path. Errors name the
// field, and for a format the offset in it.
func Parse(cfg *filev3.FileAccessLog, sinks *Sinks) (*Logger, error) {
	if cfg.GetPath() == "" {
		return nil, errors.New("path: is required; /dev/stdout is the standard output")
	}
	l := &Logger{}
	if err := l.compile(cfg, newCompileEnv()); err != nil {
		return nil, err
	}
	sink, err := sinks.open(cfg.GetPath())
	if err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	l.sink = sink
	return l, nil
}

// WithFilter returns a logger that writes only the exchanges that f passes;
// nil passes all.
func (l *Logger) WithFilter(f *Filter) *Logger {
	filtered := *l
	filtered.filter = f
	return &filtered
}

// compile compiles whichever of the format's fields is set.
func (l *Logger) compile(cfg *filev3.FileAccessLog, env *compileEnv) error {
	format := cfg.GetLogFormat()
	if format == nil {
		return l.compileOld(cfg, env)
	}
	l.omit = format.GetOmitEmptyValues()
	for i, ext := range format.GetFormatters() {
		if !strings.HasSuffix(ext.GetTypedConfig().GetTypeUrl(), withoutQueryType) {
			return fmt.Errorf("log_format.formatters[%d]: %s is not supported; only req_without_query is", i, ext.GetTypedConfig().GetTypeUrl())
		}
		env.withoutQuery = true
	}
	switch f := format.GetFormat().(type) {
	case *corev3.SubstitutionFormatString_TextFormatSource:
		text, err := readSource(f.TextFormatSource, env)
		if err != nil {
			return fmt.Errorf("log_format.text_format_source: %w", err)
		}
		return l.compileText("log_format.text_format_source", text, env)
	case *corev3.SubstitutionFormatString_JsonFormat:
		return l.compileJSON("log_format.json_format", f.JsonFormat, env)
	}
	if text := oldText(format); text != "" {
		return l.compileText("log_format.text_format", text, env)
	}
	return errors.New("log_format: must have text_format_source or json_format")
}

func (l *Logger) compileText(field, text string, env *compileEnv) (err error) {
	if l.text, err = compile(text, env); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

func (l *Logger) compileJSON(field string, s *structpb.Struct, env *compileEnv) (err error) {
	l.json, err = compileObject(s, field, env)
	return err
}

// readSource reads a text format from wherever it is.
func readSource(s *corev3.DataSource, env *compileEnv) (string, error) {
	switch s := s.GetSpecifier().(type) {
	case *corev3.DataSource_InlineString:
		return s.InlineString, nil
	case *corev3.DataSource_InlineBytes:
		return string(s.InlineBytes), nil
	case *corev3.DataSource_Filename:
		b, err := os.ReadFile(s.Filename)
		return string(b), err
	case *corev3.DataSource_EnvironmentVariable:
		v, ok := env.getenv(s.EnvironmentVariable)
		if !ok {
			return "", fmt.Errorf("the environment has no variable %s", s.EnvironmentVariable)
		}
		return v, nil
	}
	return "", errors.New("must have inline_string, inline_bytes, filename or environment_variable")
}

// lineBuffers keeps buffers in which lines are made. What they hold is of no
// meaning between two lines.
type lineBuffers struct{ pool sync.Pool }

// Log writes the line of an exchange that is over.
func (l *Logger) Log(ex *http.Exchange) {
	if l.filter != nil && !l.filter.pass(ex) {
		return
	}
	buf := l.sink.lines.get()
	*buf = l.Append((*buf)[:0], ex)
	l.sink.write(*buf)
	l.sink.lines.put(buf)
}

// Append appends the line of an exchange, its end included.
func (l *Logger) Append(dst []byte, ex *http.Exchange) []byte {
	if l.text != nil {
		return l.text.append(dst, ex, asText, missing(l.omit))
	}
	if out, ok := l.json.append(dst, ex, l.omit); ok {
		return append(out, '\n')
	}
	return append(dst, "{}\n"...)
}

// missing is what stands in text for a value that there isn't.
func missing(omit bool) string {
	if omit {
		return ""
	}
	return "-"
}

// append appends the text with the values of ex.
func (t *template) append(dst []byte, ex *http.Exchange, enc encoding, missing string) []byte {
	for i := range t.segments {
		s := &t.segments[i]
		if s.op == opLiteral {
			dst = append(dst, s.lit...)
			continue
		}
		out, ok := s.append(dst, ex, enc)
		if !ok {
			out = append(dst, missing...)
		}
		dst = out
	}
	return dst
}

// maxKeptLine bounds the buffers that are kept: a rare huge line must not hold
// memory for ever.
const maxKeptLine = 16 << 10

func (b *lineBuffers) get() *[]byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, 0, 1024)
	return &buf
}

func (b *lineBuffers) put(buf *[]byte) {
	if cap(*buf) <= maxKeptLine {
		b.pool.Put(buf)
	}
}
