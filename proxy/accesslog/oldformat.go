// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 Envoy still takes the fields that log_format has replaced, and so does this.

package accesslog

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
)

// compileOld compiles a configuration without log_format: one with the fields
// that came before it, or with none.
func (l *Logger) compileOld(cfg *filev3.FileAccessLog, env *compileEnv) error {
	switch f := cfg.GetAccessLogFormat().(type) {
	case *filev3.FileAccessLog_Format:
		if f.Format != "" {
			return l.compileText("format", f.Format, env)
		}
	case *filev3.FileAccessLog_JsonFormat:
		return l.compileJSON("json_format", f.JsonFormat, env)
	case *filev3.FileAccessLog_TypedJsonFormat:
		return l.compileJSON("typed_json_format", f.TypedJsonFormat, env)
	}
	return l.compileText("log_format", defaultFormat, env)
}

// oldText returns the text of log_format.text_format.
func oldText(f *corev3.SubstitutionFormatString) string { return f.GetTextFormat() }
