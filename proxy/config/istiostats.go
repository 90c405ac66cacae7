// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	statsapi "istio.io/api/envoy/extensions/stats"

	"pillion/proxy/filter/istiostats"
)

const istioStatsType = "stats.PluginConfig"

// istioStats compiles a configuration of istio.stats, which both requests and raw
// connections have.
func (c *Compiler) istioStats(a *anypb.Any) (o istiostats.Options, err error) {
	cfg := &statsapi.PluginConfig{}
	if a.MessageIs(cfg) {
		err = a.UnmarshalTo(cfg)
	} else {
		err = fromTypedStruct(a, cfg)
	}
	if err != nil {
		return o, err
	}
	return istiostats.Parse(cfg, istiostats.Node{Own: c.env.Own, Labels: c.env.Labels, ID: c.env.NodeID})
}

// fromTypedStruct reads a message that came as a TypedStruct, as older control planes
// send Istio's own.
func fromTypedStruct(a *anypb.Any, m *statsapi.PluginConfig) error {
	s, err := typedStruct(a)
	if err != nil {
		return err
	}
	text, err := s.MarshalJSON()
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(text, m); err != nil {
		return fmt.Errorf("value: %w", err)
	}
	return nil
}

func buildIstioStats(ch *chains, base, _ *anypb.Any) (any, error) {
	o, err := ch.c.istioStats(base)
	if err != nil {
		return nil, err
	}
	for _, w := range o.Warnings {
		ch.warn("http_filters: istio.stats: " + w)
	}
	return istiostats.NewWith(o, ch.c.env.Own, ch.direction, ch.c.env.Families), nil
}
