// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"pillion/proxy/admin"
	"pillion/proxy/config"
	"pillion/proxy/istio/source"
	"pillion/proxy/stats"
)

// applied is the configuration that is served.
type applied struct {
	snapshot *config.Snapshot
	dump     *dump             // the resources, serialized
	service  string            // the proxy's name in traces
	opens    map[string]string // service ports, by listener
	version  uint64
	at       time.Time
	warned   map[string]bool // warnings already logged
}

// reloadStats count changes of configuration.
type reloadStats struct {
	ok, rejected stats.Counter
	lastOK       stats.Gauge // Unix time in seconds
	version      stats.Gauge
}

func (r *reloadStats) CollectStats(e *stats.Emitter) {
	ok, bad := r.ok.Value(), r.rejected.Value()
	for _, xds := range []string{"listener_manager.lds", "cluster_manager.cds"} {
		e.Counter(xds+".update_success", "", ok)
		e.Counter(xds+".update_rejected", "", bad)
		e.Counter(xds+".update_attempt", "", ok+bad)
	}
	e.Gauge("listener_manager.total_listeners_warming", "", 0) // files have all that they need
	e.Emit(stats.Metric{Name: "pillion.config.updates_applied", Prom: "pillion_config_updates_applied_total", Raw: true, Value: float64(ok)})
	e.Emit(stats.Metric{Name: "pillion.config.updates_rejected", Prom: "pillion_config_updates_rejected_total", Raw: true, Value: float64(bad)})
	e.Emit(stats.Metric{Name: "pillion.config.last_applied", Prom: "pillion_config_last_applied_timestamp_seconds", Raw: true,
		Kind: stats.KindGauge, Value: float64(r.lastOK.Value())})
}

// reload reads the files and serves what they say. A configuration with an
// error changes nothing, and the *ConfigError is logged and returned.
func (s *Server) reload() error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	begun := time.Now()
	c := s.loadAndApply()
	if c.Failed() {
		s.reloads.rejected.Inc()
		err := &ConfigError{Problems: c.Problems}
		if s.current != nil {
			s.logRefused(c.Problems)
		}
		return err
	}
	s.reloads.ok.Inc()
	s.reloads.lastOK.Set(time.Now().Unix())
	s.reloads.version.Set(int64(s.current.version))
	s.logWarnings(c.Problems)
	s.log(admin.LoggerConfig).Info("configuration is served", "version", s.current.version, "resources", c.Objects,
		"listeners", len(s.current.snapshot.Listeners), "clusters", len(s.current.snapshot.Clusters),
		"took", time.Since(begun).Round(time.Millisecond))
	giveBack()
	return nil
}

// loadAndApply reads the files and serves what they say; applyMu is held. A change that
// failed has changed nothing.
func (s *Server) loadAndApply() *Checked {
	defer collectLess()()
	c := load(&s.o)
	if !c.Failed() {
		if err := s.apply(c); err != nil {
			c.Problems = append(c.Problems, compileProblems(err)...)
		}
	}
	return c
}

// apply compiles and commits; applyMu is held. Everything that can fail comes
// before the first change.
func (s *Server) apply(c *Checked) error {
	input := compilerInput(c.Resources)
	d, unserialized := newDump(input)
	snap, err := s.compiler.Compile(input)
	if err != nil {
		return err // which says more about a message that can't be serialized
	}
	if unserialized != nil {
		return unserialized
	}
	st, err := s.bound.stage(snap.Listeners)
	if err != nil {
		return err
	}
	if err := s.applySecrets(c.Resources.Secrets); err != nil {
		st.discard()
		return err
	}
	// Make before break: clusters that routes will name come first, those
	// that no route names any more go last.
	if err := s.clusters.Update(snap.Clusters, nil); err != nil {
		st.discard()
		return err
	}
	for place, table := range snap.Tables {
		place.Store(table)
	}
	s.bound.commit(st)
	snap.Committed()
	_ = s.clusters.Update(nil, s.unnamed(snap)) // removing can't fail
	next := &applied{snapshot: snap, dump: d, service: c.Resources.ServiceCluster, opens: c.Resources.Opens, version: 1, at: time.Now()}
	if s.current != nil {
		next.version = s.current.version + 1
		next.warned = s.current.warned
	}
	s.current = next
	return nil
}

// applySecrets puts certificates of the configuration into their places, where
// contexts find them at the next handshake. One that can't be served refuses the
// change; those before it were good, and stay.
func (s *Server) applySecrets(secrets []*tlsv3.Secret) error {
	for _, r := range secrets {
		if err := config.ApplySecret(s.secrets, r, "", "configuration"); err != nil {
			return err
		}
	}
	return nil
}

// unnamed returns the served clusters that snap doesn't name; applyMu is held.
func (s *Server) unnamed(snap *config.Snapshot) []string {
	if s.current == nil {
		return nil
	}
	have := make(map[string]bool, len(snap.Clusters))
	for _, c := range snap.Clusters {
		have[c.Name] = true
	}
	var gone []string
	for _, c := range s.current.snapshot.Clusters {
		if !have[c.Name] {
			gone = append(gone, c.Name)
		}
	}
	return gone
}

func (s *Server) logRefused(ps []source.Problem) {
	for _, p := range ps {
		if !p.Warning {
			s.log(admin.LoggerConfig).Error("configuration refused, the last good one is served on", "problem", p.String())
		}
	}
}

// logWarnings logs each warning once, not at each reload.
func (s *Server) logWarnings(ps []source.Problem) {
	seen := map[string]bool{}
	log := func(text string) {
		if !s.current.warned[text] {
			s.log(admin.LoggerConfig).Warn("configuration", "problem", text)
		}
		seen[text] = true
	}
	for _, p := range ps {
		if p.Warning {
			log(p.String())
		}
	}
	for _, w := range s.current.snapshot.Warnings {
		log(w)
	}
	s.current.warned = seen
}
