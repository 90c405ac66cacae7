// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"pillion/proxy/accesslog"
	"pillion/proxy/hcm"
	"pillion/proxy/http"
	"pillion/proxy/listener"
	"pillion/proxy/tcp"
	"pillion/proxy/tls"
)

// Listener is a compiled listener. Immutable.
type Listener struct {
	Name      string
	Address   string // host:port to bind
	Direction http.Direction
	// Matcher chooses one of Chains by index. Default takes what none is for;
	// nil: such connections are closed.
	Matcher *listener.Matcher
	Chains  []*Chain
	Default *Chain
	// SniffTLS and SniffHTTP are as listener.Switch has them.
	SniffTLS, SniffHTTP func(port uint16) bool
	SniffTimeout        time.Duration
	SniffContinue       bool
	// AccessLogs get a line for each connection when it has ended.
	AccessLogs []*accesslog.Logger
}

// Chain is a compiled filter chain: either HCM or TCP is set. Immutable.
type Chain struct {
	// Name tells the chains of a listener apart, and finds a chain again after
	// a change.
	Name string
	HCM  *hcm.Config
	TCP  *tcp.Config
	// TLS is what clients have to speak; nil for plain connections.
	// HandshakeTimeout bounds the handshake.
	TLS              *tls.Server
	HandshakeTimeout time.Duration
}

// listenerFields are the fields of a Listener that mean something here. Any
// other one that is set refuses the resource.
var listenerFields = fieldSet("name", "address", "filter_chains", "default_filter_chain", "traffic_direction", "access_log", "stat_prefix",
	"listener_filters", "listener_filters_timeout", "continue_on_listener_filters_timeout", "bind_to_port", "metadata",
	"per_connection_buffer_limit_bytes", "max_connections_to_accept_per_socket_event", "enable_reuse_port")

// defaultSniffTimeout is Envoy's for a listener_filters_timeout that isn't set.
const defaultSniffTimeout = 15 * time.Second

func (c *Compiler) compileListener(s *Snapshot, l *listenerv3.Listener, routes map[string]*routev3.RouteConfiguration) error {
	if err := onlyFields(l, listenerFields); err != nil {
		return err
	}
	addr, err := socketAddress(l.GetAddress())
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if l.GetBindToPort() != nil && !l.GetBindToPort().GetValue() {
		return fmt.Errorf("bind_to_port: listeners reached by their original destination are not supported")
	}
	out := &Listener{Name: l.GetName(), Address: addr, Direction: direction(l.GetTrafficDirection()),
		SniffTimeout: defaultSniffTimeout, SniffContinue: l.GetContinueOnListenerFiltersTimeout()}
	if d := l.GetListenerFiltersTimeout(); d != nil {
		out.SniffTimeout = d.AsDuration()
	}
	if err := out.compileFilters(l); err != nil {
		return err
	}
	if out.AccessLogs, err = c.accessLogs(l.GetAccessLog()); err != nil {
		return fmt.Errorf("access_log%w", err)
	}
	if err := c.compileChains(s, out, l, routes); err != nil {
		return err
	}
	if s.Listeners[out.Name] != nil {
		return fmt.Errorf("name: two listeners of this name")
	}
	s.Listeners[out.Name] = out
	return nil
}
