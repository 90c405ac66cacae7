// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"fmt"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/hcm"
	"pillion/proxy/http"
	"pillion/proxy/router"
)

// Place is where the tables of one route configuration are published for all
// connection managers that have the same filters: under other filters its routes
// have other chains. It belongs to its Compiler.
type Place struct {
	// Name is that of the route configuration, empty if it stands in the listener.
	Name string

	key    placeKey
	routes hcm.Routes
	chains *chains // of the managers
	users  int     // listeners compiled one by one that read it

	// hosts are the virtual hosts of the table that was published last, and header
	// what that had been compiled from besides; nil unless it was compiled by Table.
	hosts  map[bodySum]*builtHost
	header []byte
	table  *router.Table
}

// Published reports whether the place has a table.
func (p *Place) Published() bool { return p.routes.Load() != nil }

// placeKey tells places apart: by the name or the content of the routes, and by
// the filters.
type placeKey struct {
	name    string
	content bodySum // of routes that stand in a listener
	filters string
}

// bodySum stands for the content of a message.
type bodySum [16]byte

func sumOf(body []byte) (out bodySum) {
	sum := sha256.Sum256(body)
	copy(out[:], sum[:])
	return out
}

// attachRoutes gives a manager the place of its routes, its chains and the
// options of its terminal filter. What is compiled for the place is in
// s.Tables.
func (c *Compiler) attachRoutes(s *Snapshot, cfg *hcm.Config, m *hcmv3.HttpConnectionManager, d http.Direction, routes map[string]*routev3.RouteConfiguration) error {
	warned := map[string]bool{} // chains are built over and over
	chains, err := c.newChains(s, m, d, func(w string) {
		if !warned[w] {
			warned[w] = true
			s.Warnings = append(s.Warnings, m.GetStatPrefix()+": "+w)
		}
	})
	if err != nil {
		return err
	}
	cfg.Forward = chains.terminal
	if cfg.Tracing != nil && chains.spans {
		cfg.Tracing.Upstream = true
	}
	if cfg.NoRouteChain, err = chains.build(); err != nil {
		return err
	}
	rc, key := m.GetRouteConfig(), placeKey{filters: chains.signature}
	if rds := m.GetRds(); rds != nil {
		rc, key.name = routes[rds.GetRouteConfigName()], rds.GetRouteConfigName()
		if key.name == "" {
			return fmt.Errorf("rds.route_config_name: is empty")
		}
		if rc == nil && !s.one {
			return fmt.Errorf("rds.route_config_name: there is no route configuration %q", key.name)
		}
	} else {
		wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(rc)
		if err != nil {
			return fmt.Errorf("route_config: %w", err)
		}
		key.content = sumOf(wire)
	}
	place := c.places[key]
	switch {
	case place == nil:
		place = &Place{Name: key.name, key: key, chains: chains}
		c.places[key] = place
	case !s.one && !slices.Contains(s.used, place):
		place.chains = chains // the whole is compiled anew
	}
	if !slices.Contains(s.used, place) {
		s.used = append(s.used, place)
	}
	cfg.Routes = &place.routes
	if s.Tables[cfg.Routes] != nil || s.one && (key.name != "" || place.Published()) {
		return nil
	}
	table, err := CompileRoutes(rc, c.routeEnv(place, rc.GetName(), &s.Warnings))
	if err != nil {
		return fmt.Errorf("route configuration %s: %w", rc.GetName(), err)
	}
	s.Tables[cfg.Routes] = table
	return nil
}

// routeEnv is what a table for a place is wired to.
func (c *Compiler) routeEnv(p *Place, name string, warnings *[]string) RouteEnv {
	return RouteEnv{
		Cluster:              func(name string) router.Cluster { return c.env.Clusters.Slot(name) },
		Chain:                p.chains.build,
		Warn:                 func(w string) { *warnings = append(*warnings, "route configuration "+name+": "+w) },
		SuppressEnvoyHeaders: p.chains.terminal.SuppressEnvoyHeaders,
	}
}
