// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"regexp"

	"pillion/proxy/admin"
	"pillion/proxy/live"
	"pillion/proxy/pod"
	"pillion/proxy/stats"
)

// A Server answers what the pod's contract asks of it.
var _ pod.Proxy = (*Server)(nil)

// Health tells how far the server is. What counts is the control plane's
// configuration where there is one, else that of files.
func (s *Server) Health() pod.Health {
	h := pod.Health{State: s.State()}
	if s.live != nil {
		h.Clusters.Accepted, h.Clusters.Rejected = s.live.Answers(live.ClusterType)
		h.Listeners.Accepted, h.Listeners.Rejected = s.live.Answers(live.ListenerType)
		names, _ := s.live.Answers(live.NameTableType)
		h.NameTable, h.ControlPlane = names > 0, s.controlPlane()
		return h
	}
	u := pod.Updates{Accepted: s.reloads.ok.Value(), Rejected: s.reloads.rejected.Value()}
	h.Clusters, h.Listeners = u, u
	return h
}

// WriteStats writes the metrics in Prometheus' text form.
func (s *Server) WriteStats(w io.Writer, q stats.Query) error { return s.registry.Write(w, false, q) }

// BeginDrain has open connections end, and returns.
func (s *Server) BeginDrain(inboundOnly bool) {
	s.setDraining()
	lifecycle{s}.Drain(admin.DrainOptions{Graceful: true, InboundOnly: inboundOnly, SkipExit: true})
}

// openConnections are the gauges of listeners: what the proxy's own ports have
// open isn't among them.
var openConnections = regexp.MustCompile(`^listener\..*\.downstream_cx_active$`)

// ActiveConnections counts the open connections of all listeners.
func (s *Server) ActiveConnections() (int, error) {
	n := 0
	for _, m := range s.registry.List(stats.Query{Filter: openConnections}) {
		n += int(m.Value)
	}
	return n, nil
}

// NameTable returns the control plane's table of names as JSON; nil without one.
func (s *Server) NameTable() ([]byte, error) {
	if s.live == nil {
		return nil, nil
	}
	return s.live.NameTable()
}
