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
	Name    string
	Address string // host:port
	// Additional are further addresses, of the same form.
	Additional []string
	// Unbound says that the addresses are not bound: connections come to them from a
	// listener that hands off.
	Unbound   bool
	Direction http.Direction
	// Redirected says that connections may have been redirected to the listener, so
	// that the kernel is asked where they were going. HandOff leaves those to the
	// listener of that address, if there is one.
	Redirected, HandOff bool
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
	// Gate stands for all that decides who is let in and how: what the chain is for, its
	// transport socket, and the filters before the last one. Zero: not known.
	Gate [16]byte
}

// listenerFields are the fields of a Listener that mean something here, or that
// change nothing that can be seen from outside: how sockets are shared between
// threads, how many connections are accepted in a row, and how much is buffered.
// Any other one that is set refuses the resource.
var listenerFields = fieldSet("name", "address", "additional_addresses", "filter_chains", "default_filter_chain", "traffic_direction",
	"access_log", "stat_prefix", "listener_filters", "listener_filters_timeout", "continue_on_listener_filters_timeout", "bind_to_port",
	"use_original_dst", "metadata", "per_connection_buffer_limit_bytes", "max_connections_to_accept_per_socket_event",
	"enable_reuse_port", "connection_balance_config", "ignore_global_conn_limit")

// defaultSniffTimeout is Envoy's for a listener_filters_timeout that isn't set.
const defaultSniffTimeout = 15 * time.Second

func (c *Compiler) compileListener(s *Snapshot, l *listenerv3.Listener, routes map[string]*routev3.RouteConfiguration) error {
	if err := onlyFields(l, listenerFields); err != nil {
		return err
	}
	out := &Listener{Name: l.GetName(), Direction: direction(l.GetTrafficDirection()),
		SniffTimeout: defaultSniffTimeout, SniffContinue: l.GetContinueOnListenerFiltersTimeout()}
	if err := out.compileAddresses(l); err != nil {
		return err
	}
	var err error
	if d := l.GetListenerFiltersTimeout(); d != nil {
		if out.SniffTimeout, err = span("listener_filters_timeout", d, 0); err != nil {
			return err
		}
	}
	if err := out.compileFilters(l); err != nil {
		return err
	}
	if out.AccessLogs, err = c.accessLogs(s, l.GetAccessLog()); err != nil {
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

// compileAddresses compiles where the listener is found, and by whom.
func (out *Listener) compileAddresses(l *listenerv3.Listener) (err error) {
	if out.Address, err = socketAddress(l.GetAddress()); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	for i, a := range l.GetAdditionalAddresses() {
		path := fmt.Sprintf("additional_addresses[%d]", i)
		if err := onlyFields(a, additionalFields); err != nil {
			return at(path, err)
		}
		more, err := socketAddress(a.GetAddress())
		if err != nil {
			return fmt.Errorf("%s.address: %w", path, err)
		}
		out.Additional = append(out.Additional, more)
	}
	out.Unbound = !unlessFalse(l.GetBindToPort())
	out.HandOff = l.GetUseOriginalDst().GetValue()
	// use_original_dst brings the listener filter with it
	// (Envoy: ListenerImpl::buildOriginalDstListenerFilter).
	out.Redirected = out.HandOff
	return nil
}

var additionalFields = fieldSet("address")
