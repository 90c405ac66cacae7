// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"log/slog"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"pillion/proxy/accesslog"
	"pillion/proxy/cluster"
	"pillion/proxy/filter/istiostats"
	"pillion/proxy/hcm"
	"pillion/proxy/http"
	"pillion/proxy/pool"
	"pillion/proxy/router"
	"pillion/proxy/stats"
	"pillion/proxy/tls"
)

// Env is what compiled structures are wired to. With the zero value Compile
// checks, and its result must not be served.
type Env struct {
	Own      http.Peer         // the workload beside the proxy
	Labels   map[string]string // of that workload
	Families *istiostats.Families
	Sinks    *accesslog.Sinks
	Clusters *cluster.Manager
	Registry *stats.Registry
	Secrets  *tls.Secrets // live certificates and trust anchors
	Log      *slog.Logger // of what compiled filters meet later; nil: told to nobody
}

// Compiler compiles one set of resources after the other. It remembers the
// places where route tables are published, so that a table finds the managers
// that read it. Not safe for concurrent use.
type Compiler struct {
	env    Env
	places map[placeKey]*hcm.Routes
	// filters are the parts of filters that live on between compilations.
	filters *filterState
	tls     *tlsContexts
	alpn    *pool.ALPN // as last compiled
	close   []func()   // of what Env left out
}

// placeKey tells route tables apart: the same route configuration under
// another list of filters has other chains.
type placeKey struct{ routes, filters string }

// NewCompiler returns a compiler. It must be closed.
func NewCompiler(env Env) *Compiler {
	c := &Compiler{places: map[placeKey]*hcm.Routes{}}
	if env.Registry == nil {
		env.Registry = stats.NewRegistry()
	}
	if env.Families == nil {
		env.Families = istiostats.NewFamilies(env.Registry)
	}
	if env.Sinks == nil {
		env.Sinks = accesslog.NewSinks()
		c.close = append(c.close, func() { _ = env.Sinks.Close() })
	}
	checks := env.Clusters == nil
	if checks {
		env.Clusters = cluster.NewManager(cluster.Options{})
		c.close = append(c.close, env.Clusters.Close)
	}
	if env.Secrets == nil {
		env.Secrets = tls.NewSecrets()
	}
	c.env, c.filters, c.tls = env, newFilterState(env.Registry), newTLSContexts(env.Secrets)
	c.filters.jwt = newJWTState(env.Clusters, checks, env.Log)
	c.close = append(c.close, c.filters.jwt.remotes.Close)
	return c
}

// Close ends what the compiler had to make for itself.
func (c *Compiler) Close() {
	for _, f := range c.close {
		f()
	}
}

// attachRoutes gives a manager its route table, its chains and the options of
// its terminal filter.
func (c *Compiler) attachRoutes(s *Snapshot, cfg *hcm.Config, m *hcmv3.HttpConnectionManager, d http.Direction, routes map[string]*routev3.RouteConfiguration) error {
	warned := map[string]bool{} // chains are built over and over
	chains, err := c.newChains(m, d, func(w string) {
		if !warned[w] {
			warned[w] = true
			s.Warnings = append(s.Warnings, m.GetStatPrefix()+": "+w)
		}
	})
	if err != nil {
		return err
	}
	cfg.Forward = chains.terminal
	if cfg.NoRouteChain, err = chains.build(); err != nil {
		return err
	}
	rc, key := m.GetRouteConfig(), placeKey{filters: chains.signature}
	if rds := m.GetRds(); rds != nil {
		rc, key.routes = routes[rds.GetRouteConfigName()], rds.GetRouteConfigName()
		if rc == nil {
			return fmt.Errorf("rds.route_config_name: there is no route configuration %q", key.routes)
		}
	} else {
		key.routes = "inline of " + m.GetStatPrefix()
	}
	place := c.places[key]
	if place == nil {
		place = new(hcm.Routes)
		c.places[key] = place
	}
	cfg.Routes = place
	if s.Tables[place] != nil {
		return nil
	}
	table, err := CompileRoutes(rc, RouteEnv{
		Cluster: func(name string) router.Cluster { return c.env.Clusters.Slot(name) },
		Chain:   chains.build,
		Warn: func(w string) {
			s.Warnings = append(s.Warnings, "route configuration "+rc.GetName()+": "+w)
		},
		SuppressEnvoyHeaders: cfg.Forward.SuppressEnvoyHeaders,
	})
	if err != nil {
		return fmt.Errorf("route configuration %s: %w", rc.GetName(), err)
	}
	s.Tables[place] = table
	return nil
}

// accessLogs compiles the loggers of a manager.
func (c *Compiler) accessLogs(logs []*accesslogv3.AccessLog) ([]*accesslog.Logger, error) {
	var out []*accesslog.Logger
	for i, l := range logs {
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
		return nil, fmt.Errorf("typed_config: only a FileAccessLog is supported, got %s", l.GetTypedConfig().GetTypeUrl())
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
