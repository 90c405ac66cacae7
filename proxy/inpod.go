// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"

	"pillion/proxy/live"
	"pillion/proxy/pod"
	"pillion/proxy/stats"
	"pillion/proxy/tls/istioca"
)

// A Server answers what the pod's contract asks of it.
var _ pod.Proxy = (*Server)(nil)

// Health tells how far the server is. What counts is the control plane's
// configuration where there is one, else that of files.
func (s *Server) Health() pod.Health {
	h := pod.Health{State: s.State(), Waiting: s.waitingForCertificate()}
	if s.live != nil {
		h.Clusters.Accepted, h.Clusters.Rejected = s.live.Answers(live.ClusterType)
		h.Listeners.Accepted, h.Listeners.Rejected = s.live.Answers(live.ListenerType)
		names, _ := s.live.Answers(live.NameTableType)
		h.NameTable, h.ControlPlane = names > 0, s.controlPlane()
		if h.State != stats.StateLive {
			h.Waiting = append(h.Waiting, s.live.WaitingFor()...)
		}
		return h
	}
	u := pod.Updates{Accepted: s.reloads.ok.Value(), Rejected: s.reloads.rejected.Value()}
	h.Clusters, h.Listeners = u, u
	return h
}

// waitingForCertificate names what the workload lacks to show who it is, if it
// is to have it.
func (s *Server) waitingForCertificate() []string {
	if s.source == nil {
		return nil
	}
	var out []string
	for _, what := range []struct{ name, text string }{
		{ownCertificate, "the workload has no certificate yet"}, {meshRoots, "the roots of the mesh haven't come yet"},
	} {
		secret := s.secrets.Secret(what.name)
		select {
		case <-secret.Ready():
		default:
			if why := secret.Status().LastError; why != "" {
				what.text += ": " + why
			}
			out = append(out, what.text)
		}
	}
	return out
}

// WriteStats writes the metrics in Prometheus' text form.
func (s *Server) WriteStats(w io.Writer, q stats.Query) error { return s.registry.Write(w, false, q) }

// BeginDrain has open connections end, for as long as they take: what cuts them
// off is the end of the server.
func (s *Server) BeginDrain(inboundOnly bool) {
	s.setDraining()
	if inboundOnly {
		s.tracker.DrainInbound()
		return
	}
	s.goRun(s.bound.trackers.drain)
}

// ActiveConnections counts the open connections of all listeners: what the proxy's
// own ports have open isn't among them.
func (s *Server) ActiveConnections() int { return int(s.bound.connections()) }

// Agent tells what Istio's agent would count.
func (s *Server) Agent() pod.AgentCounts {
	var out pod.AgentCounts
	if s.xds != nil {
		c := s.xds.Counts()
		out.Requests, out.Responses, out.Unopened, out.Ended, out.Failed = c.Requests, c.Responses, c.Unopened, c.Ended, c.Failed
	}
	if ca, ok := s.source.(*istioca.Source); ok {
		r := ca.Requests()
		out.CA = &pod.CACounts{All: r.All, Failed: r.Failed, Took: r.Took}
	}
	out.FileFailures, out.WatchFailures = s.files.Failures()
	for _, secret := range s.secrets.All() { // to ask for one would make it
		if secret.Name() != ownCertificate {
			continue
		}
		if chain := secret.Status().Chain; len(chain) > 0 {
			out.Expires = chain[0].NotAfter // Istio's agent looks at the leaf, too
		}
	}
	return out
}

// NameTable returns the control plane's table of names as JSON; nil without one.
func (s *Server) NameTable() ([]byte, error) {
	if s.live == nil {
		return nil, nil
	}
	return s.live.NameTable()
}
