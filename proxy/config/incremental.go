// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/cluster"
	"pillion/proxy/filter"
	"pillion/proxy/filter/jwt"
	"pillion/proxy/hcm"
	"pillion/proxy/pool"
	"pillion/proxy/router"
	"pillion/proxy/tls"
)

// This file compiles resources one by one, as a control plane sends them. What
// is compiled so is wired to what was before: a place lives as long as a listener
// reads it.

// Cluster compiles one cluster; cla is what EDS has brought for it, nil if there is
// none yet. The result has no Hash: who calls it knows what has changed.
func (c *Compiler) Cluster(in *clusterv3.Cluster, cla *endpointv3.ClusterLoadAssignment) (*cluster.Config, []string, error) {
	cfg, warnings, err := buildCluster(in, cla, c.tls, c.alpn)
	if err != nil {
		return nil, nil, err
	}
	cfg.AddedViaAPI = true
	if cfg.Discovery == cluster.EDS && cla != nil && cfg.Endpoints == nil {
		cfg.Endpoints = []cluster.Endpoint{} // nil would keep those of before
	}
	return cfg, warnings, nil
}

// StaticCluster compiles a cluster of the proxy's own, which needs neither secrets nor
// endpoints that come by themselves (Envoy: static_resources).
func StaticCluster(in *clusterv3.Cluster) (*cluster.Config, error) {
	cfg, _, err := buildCluster(in, nil, newTLSContexts(tls.NewSecrets()), nil)
	return cfg, err
}

// EDSName is the name under which a cluster's endpoints come, empty if they
// don't come by EDS.
func EDSName(in *clusterv3.Cluster) string {
	if in.GetType() != clusterv3.Cluster_EDS {
		return ""
	}
	return edsName(in)
}

// SetALPN has clusters that are compiled from now on offer a by TLS, and reports whether
// that is a change (see alpnOverride).
func (c *Compiler) SetALPN(a *pool.ALPN) bool {
	if alpnText(c.alpn) == alpnText(a) {
		return false
	}
	c.alpn = a
	return true
}

// Unit is one listener compiled by itself. It belongs to its Compiler.
type Unit struct {
	*Listener
	// Places are where its connection managers read their routes. Those with a name
	// need a Table of that name.
	Places []*Place
	// Secrets are the names of the certificates and anchors of its chains that a source
	// brings.
	Secrets []string
	// Extensions are its filters whose configurations come by themselves.
	Extensions []Extension
	// ALPN is what its filters have connections to hosts offer; nil if they
	// don't say.
	ALPN     *pool.ALPN
	Warnings []string

	inline map[*hcm.Routes]*router.Table
}

// Listener compiles one listener. Its unit must be released when it is not
// served any more, or never was.
func (c *Compiler) Listener(in *listenerv3.Listener) (*Unit, error) {
	s := &Snapshot{Listeners: map[string]*Listener{}, Tables: map[*hcm.Routes]*router.Table{}, one: true}
	err := c.compileListener(s, in, nil)
	u := &Unit{Listener: s.Listeners[in.GetName()], Places: s.used, Extensions: s.extensions, Warnings: s.Warnings, inline: s.Tables}
	for _, p := range u.Places {
		p.users++
	}
	if err == nil {
		u.ALPN, err = c.alpnOverride([]*listenerv3.Listener{in})
	}
	if err == nil {
		u.Secrets, err = listenerSecrets(in)
	}
	if err == nil {
		err = u.identify(in)
	}
	if err != nil {
		c.Release(u)
		return nil, err
	}
	return u, nil
}

// Places returns where the tables of a route configuration are published.
func (c *Compiler) Places(name string) []*Place {
	var out []*Place
	for key, p := range c.places {
		if key.name == name && name != "" {
			out = append(out, p)
		}
	}
	return out
}

// Publish puts the routes that stand in the listener into their places.
func (u *Unit) Publish() {
	for place, table := range u.inline {
		place.Store(table)
	}
	u.inline = nil
}

// Release forgets a unit. Places that no other one reads go.
func (c *Compiler) Release(u *Unit) {
	for _, p := range u.Places {
		if p.users--; p.users == 0 {
			delete(c.places, p.key)
		}
	}
	u.Places = nil
}

// Settled ends the state of filters that no unit has any more, and begins what those
// do by themselves that have come, such as fetching keys. It is called when units
// are served or released.
func (c *Compiler) Settled() error { return c.filters.settled(c.places) }

// settled keeps the engines of JWT filters that a place has, and has their
// remote key sets fetched.
func (f *filterState) settled(places map[placeKey]*Place) error {
	if len(f.jwt.engines) == 0 {
		return nil
	}
	before := f.jwt.engines
	f.jwt.engines = make(map[string]*jwt.Engine, len(before))
	f.jwt.remotes.Begin()
	for _, p := range places {
		for _, part := range p.chains.filters {
			if messageType(part.base) != jwtType {
				continue
			}
			// To make it again is what finds its key sets.
			if _, err := p.chains.jwtEngine(part.base); err != nil {
				return err
			}
		}
	}
	for name := range f.jwt.engines {
		if e := before[name]; e != nil {
			f.jwt.engines[name] = e // with the tokens that it has verified
		}
	}
	f.jwt.remotes.Commit()
	return nil
}

// noChain stands for filters that are not known.
func noChain(...map[string]*anypb.Any) (*filter.Chain, error) { return filter.NewChain(), nil }

// identify gives the chains of a listener what tells them from those of other
// versions of it.
func (out *Listener) identify(in *listenerv3.Listener) error {
	list := in.GetFilterChains()
	if len(list) != len(out.Chains) {
		return fmt.Errorf("filter_chains: %d of %d were compiled", len(out.Chains), len(list))
	}
	used := map[string]int{}
	for _, fc := range list {
		used[fc.GetName()]++
	}
	for i, fc := range list {
		if err := out.Chains[i].identify(fc, used[fc.GetName()] > 1); err != nil {
			return err
		}
	}
	if fc := in.GetDefaultFilterChain(); fc != nil {
		return out.Default.identify(fc, used[fc.GetName()] > 0)
	}
	return nil
}

// identify finds out who the chain is and whom it lets in. Istio names all chains of
// a port alike, so those have what they match in their names: their number
// would be another one when a chain before them comes or goes.
func (c *Chain) identify(fc *listenerv3.FilterChain, ambiguous bool) error {
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(fc.GetFilterChainMatch())
	if err != nil {
		return err
	}
	if c.Name = fc.GetName(); c.Name == "" || ambiguous {
		c.Name += fmt.Sprintf("#%x", sumOf(wire))
	}
	gate := &listenerv3.FilterChain{TransportSocket: fc.GetTransportSocket(), FilterChainMatch: fc.GetFilterChainMatch()}
	if n := len(fc.GetFilters()); n > 0 {
		gate.Filters = fc.GetFilters()[:n-1]
	}
	wire, err = proto.MarshalOptions{Deterministic: true}.Marshal(gate)
	c.Gate = sumOf(wire)
	return err
}

// listenerSecrets returns the names of the secrets that the chains' TLS is made
// of and that come by SDS.
func listenerSecrets(in *listenerv3.Listener) ([]string, error) {
	chains := in.GetFilterChains()
	if d := in.GetDefaultFilterChain(); d != nil {
		chains = append(chains[:len(chains):len(chains)], d)
	}
	var out []string
	for _, fc := range chains {
		a := fc.GetTransportSocket().GetTypedConfig()
		if messageType(a) != downstreamTLSType {
			continue
		}
		m := &tlsv3.DownstreamTlsContext{}
		if err := a.UnmarshalTo(m); err != nil {
			return nil, err
		}
		out = append(out, sdsNames(m.GetCommonTlsContext())...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// ClusterSecrets returns the names of the secrets that connections to the cluster's
// hosts are made with and that come by SDS.
func ClusterSecrets(in *clusterv3.Cluster) []string {
	var out []string
	sockets := make([]*tlsv3.UpstreamTlsContext, 0, 1+len(in.GetTransportSocketMatches()))
	add := func(m *tlsv3.UpstreamTlsContext, err error) {
		if err == nil { // what can't be decoded was refused before
			sockets = append(sockets, m)
		}
	}
	if a := in.GetTransportSocket().GetTypedConfig(); messageType(a) == upstreamTLSType {
		m := &tlsv3.UpstreamTlsContext{}
		add(m, a.UnmarshalTo(m))
	}
	for _, s := range in.GetTransportSocketMatches() {
		if a := s.GetTransportSocket().GetTypedConfig(); messageType(a) == upstreamTLSType {
			m := &tlsv3.UpstreamTlsContext{}
			add(m, a.UnmarshalTo(m))
		}
	}
	for _, m := range sockets {
		out = append(out, sdsNames(m.GetCommonTlsContext())...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func sdsNames(m *tlsv3.CommonTlsContext) []string {
	var out []string
	for _, c := range m.GetTlsCertificateSdsSecretConfigs() {
		out = append(out, c.GetName())
	}
	for _, c := range []*tlsv3.SdsSecretConfig{m.GetValidationContextSdsSecretConfig(),
		m.GetCombinedValidationContext().GetValidationContextSdsSecretConfig()} {
		if c.GetName() != "" {
			out = append(out, c.GetName())
		}
	}
	return out
}
