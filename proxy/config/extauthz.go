// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"

	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	networkextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/filter"
	"pillion/proxy/filter/extauthz"
	"pillion/proxy/stats"
)

// The filters by the names of their messages.
const (
	extAuthzType        = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
	networkExtAuthzType = "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"
)

// extAuthzKey tells the counters of filters apart: by the connection manager's
// prefix and the filter's own.
type extAuthzKey struct{ manager, filter string }

// buildExtAuthz compiles the filter that asks an authorization server.
func buildExtAuthz(ch *chains, base, route *anypb.Any) (any, error) {
	cfg := &extauthzv3.ExtAuthz{}
	if err := mostSpecific(base, nil, cfg); err != nil {
		return nil, err
	}
	var own *extauthzv3.ExtAuthzPerRoute
	if route != nil {
		own = &extauthzv3.ExtAuthzPerRoute{}
		if err := route.UnmarshalTo(own); err != nil {
			return nil, err
		}
	}
	env := ch.c.extAuthzEnv()
	env.Stats = func(prefix string) *extauthz.Stats { return ch.c.filters.extAuthzStats(ch.prefix, prefix) }
	f, err := extauthz.New(cfg, own, env)
	if f == nil {
		return nil, err
	}
	return f, nil
}

// mergeExtAuthz has context_extensions of all levels come together (Envoy:
// FilterConfigPerRoute::merge).
func mergeExtAuthz(less, more *anypb.Any) (*anypb.Any, error) {
	a, b := &extauthzv3.ExtAuthzPerRoute{}, &extauthzv3.ExtAuthzPerRoute{}
	if err := less.UnmarshalTo(a); err != nil {
		return nil, err
	}
	if err := more.UnmarshalTo(b); err != nil {
		return nil, err
	}
	s := b.GetCheckSettings()
	if s == nil || len(a.GetCheckSettings().GetContextExtensions()) == 0 {
		return more, nil
	}
	all := maps.Clone(a.GetCheckSettings().GetContextExtensions())
	maps.Copy(all, s.GetContextExtensions())
	s.ContextExtensions = all
	return anypb.New(b)
}

// buildNetworkExtAuthz compiles the filter that asks an authorization server
// about connections.
func (c *Compiler) buildNetworkExtAuthz(typed *anypb.Any) (filter.Admitter, error) {
	cfg := &networkextauthzv3.ExtAuthz{}
	if err := typed.UnmarshalTo(cfg); err != nil {
		return nil, err
	}
	return extauthz.NewNetwork(cfg, c.filters.networkExtAuthzStats(cfg.GetStatPrefix()), c.extAuthzEnv())
}

// extAuthzEnv is what filters that ask an authorization server are built with.
func (c *Compiler) extAuthzEnv() *extauthz.Env {
	return &extauthz.Env{
		Client: c.client,
		GRPC:   c.grpcService,
		String: compileString,
		Value:  requestValue,
		Charge: func(name string, status int) {
			if cl := c.env.Clusters.Get(name); cl != nil {
				cl.Stats.Response(status, true, -1)
			}
		},
		Labels: func(key string) map[string]string {
			if key != "LABELS" { // the name under which Istio's nodes have them
				return nil
			}
			return c.env.Labels
		},
	}
}

func (f *filterState) extAuthzStats(manager, prefix string) *extauthz.Stats {
	key := extAuthzKey{manager, prefix}
	s := f.extAuthz[key]
	if s == nil {
		s = extauthz.NewStats(prefix)
		f.extAuthz[key] = s
		f.registry.Add(stats.SourceFunc(func(e *stats.Emitter) { s.Collect(e, manager, f.clusters.StatName) }))
	}
	return s
}

func (f *filterState) networkExtAuthzStats(prefix string) *extauthz.NetworkStats {
	s := f.networkExtAuthz[prefix]
	if s == nil {
		s = &extauthz.NetworkStats{}
		f.networkExtAuthz[prefix] = s
		f.registry.Add(stats.SourceFunc(func(e *stats.Emitter) { s.Collect(e, prefix) }))
	}
	return s
}
