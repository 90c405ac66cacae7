// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"

	"pillion/proxy/accesslog"
)

const fileLogType = "envoy.extensions.access_loggers.file.v3.FileAccessLog"

// accessLogs compiles loggers. A kind of log that there isn't leaves everything else
// as it should be, so that it is warned of. An error begins with the index of a
// logger.
func (c *Compiler) accessLogs(s *Snapshot, logs []*accesslogv3.AccessLog) ([]*accesslog.Logger, error) {
	var out []*accesslog.Logger
	for i, l := range logs {
		if typ := messageType(l.GetTypedConfig()); typ != fileLogType {
			s.warnOnce("access_log: " + typ + " is not supported, nothing is logged there")
			continue
		}
		logger, err := c.accessLog(l)
		if err != nil {
			return nil, fmt.Errorf("[%d].%w", i, err)
		}
		out = append(out, logger)
	}
	return out, nil
}

func (c *Compiler) accessLog(l *accesslogv3.AccessLog) (*accesslog.Logger, error) {
	file := &filev3.FileAccessLog{}
	if err := l.GetTypedConfig().UnmarshalTo(file); err != nil {
		return nil, fmt.Errorf("typed_config: %w", err)
	}
	logger, err := accesslog.Parse(file, c.env.Sinks)
	if err != nil {
		return nil, fmt.Errorf("typed_config: %w", err)
	}
	if l.GetFilter() == nil {
		return logger, nil
	}
	f, err := accesslog.ParseFilter(l.GetFilter())
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	return logger.WithFilter(f), nil
}

// warnOnce adds a warning that many resources may give.
func (s *Snapshot) warnOnce(text string) {
	if !slices.Contains(s.Warnings, text) {
		s.Warnings = append(s.Warnings, text)
	}
}
