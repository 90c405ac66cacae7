// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"pillion/proxy/admin"
	"pillion/proxy/stats"
)

// startEndpoints binds the admin and the metrics address.
func (s *Server) startEndpoints() error {
	log := s.log(admin.LoggerAdmin)
	if s.o.AdminAddr != "" {
		h := admin.NewHandler(admin.Options{
			Logger:    log,
			Stats:     s.registry,
			Info:      s.info(),
			Ready:     readiness{s},
			Clusters:  clusterView{s.clusters},
			Listeners: listenerView{s.bound},
			Config:    configView{s},
			Certs:     certView{s.secrets},
			Lifecycle: lifecycle{s},
			Loggers:   s.o.Levels,
		})
		a, err := admin.Listen(s.o.AdminAddr, admin.GiveBackAfterBig(h, giveBack), log)
		if err != nil {
			return err
		}
		s.admin = a
	}
	if s.o.MetricsAddr != "" {
		h := admin.NewMetricsHandler(s.registry, log)
		m, err := admin.Listen(s.o.MetricsAddr, admin.GiveBackAfterBig(h, giveBack), log)
		if err != nil {
			return err
		}
		s.metrics = m
	}
	return nil
}

// addOwnStats adds the metrics of the process and of configuration.
func (s *Server) addOwnStats() error {
	if s.o.Discovery == nil {
		s.registry.Add(&s.reloads)
	}
	s.registry.Add(s.sinks)
	s.registry.Add(s.spans)
	s.registry.Add(s.tracker)
	s.registry.Add(s.secrets)
	s.registry.Add(&stats.Server{Start: s.started, State: s.State, Connections: s.bound.connections, Revision: buildOf().number()})
	return s.registry.AddRuntime()
}

// State is what /ready and server.state tell.
func (s *Server) State() stats.State { return stats.State(s.state.Load()) }

// readiness shows the server to /ready.
type readiness struct{ s *Server }

func (r readiness) State() stats.State { return r.s.State() }

func (r readiness) WaitingFor() []string {
	if r.s.live != nil {
		return r.s.waitingForControlPlane()
	}
	if r.s.State() == stats.StatePreInitializing {
		return []string{"the first configuration, of " + strings.Join(r.s.o.Paths, ", ")}
	}
	return nil
}

// listenerView shows what is bound to /listeners.
type listenerView struct{ bound *listenerSet }

func (v listenerView) Listeners() []admin.ListenerStatus {
	addrs := v.bound.addresses()
	out := make([]admin.ListenerStatus, 0, len(addrs))
	for _, name := range slices.Sorted(maps.Keys(addrs)) {
		out = append(out, admin.ListenerStatus{Name: name, Addresses: []string{addrs[name]}})
	}
	return out
}

// lifecycle lets the admin endpoint end the server.
type lifecycle struct{ s *Server }

// Drain stops accepting and lets connections end.
func (l lifecycle) Drain(o admin.DrainOptions) {
	if o.InboundOnly {
		l.s.drainInbound(o)
		return
	}
	go l.s.drain(o)
}

// drainInbound lets inbound connections of HTTP end by themselves, for as long as they
// take, and stops accepting them when their time is over. What the application itself
// has begun goes on.
func (s *Server) drainInbound(o admin.DrainOptions) {
	s.setDraining()
	s.tracker.DrainInbound()
	if o.SkipExit {
		return
	}
	if !o.Graceful {
		s.bound.closeInbound()
		return
	}
	s.goRun(func(ctx context.Context) {
		select {
		case <-time.After(s.o.DrainTime):
			s.bound.closeInbound()
		case <-ctx.Done():
		}
	})
}

func (s *Server) drain(o admin.DrainOptions) {
	s.setDraining()
	if !o.SkipExit && !o.Graceful {
		s.bound.closeAll()
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.o.DrainTime)
	defer cancel()
	s.bound.trackers.drain(ctx)
	if !o.SkipExit {
		s.bound.closeAll()
	}
}

func (l lifecycle) SetHealthy(ok bool) {
	if ok {
		l.s.state.CompareAndSwap(int64(stats.StateDraining), int64(stats.StateLive))
		return
	}
	l.s.setDraining()
}

func (l lifecycle) Quit() { l.s.askToQuit() }

func (s *Server) setDraining() { s.state.Store(int64(stats.StateDraining)) }

// Endpoints returns every address that the proxy listens on: "http" for the
// listener of Options.HTTPAddr first, then the others, which have the name of
// the service port that they are for or else their own, and those of the proxy
// itself.
func (s *Server) Endpoints() []Endpoint {
	addrs := s.bound.addresses()
	var opens map[string]string
	s.applyMu.Lock()
	if s.current != nil {
		opens = s.current.opens
	}
	s.applyMu.Unlock()
	var out []Endpoint
	for _, name := range slices.Sorted(maps.Keys(addrs)) {
		e := Endpoint{Name: name, Addr: addrs[name]}
		if s.bound.configured(name) == s.o.HTTPAddr {
			e.Name = "http"
			out = slices.Insert(out, 0, e)
			continue
		}
		e.Name = cmp.Or(opens[name], name)
		out = append(out, e)
	}
	if s.admin != nil {
		out = append(out, Endpoint{"admin", s.admin.Addr()})
	}
	if s.metrics != nil {
		out = append(out, Endpoint{"metrics", s.metrics.Addr()})
	}
	return out
}
