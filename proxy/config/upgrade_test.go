// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"pillion/proxy/router"
)

func TestUpgradeConfigs(t *testing.T) {
	for _, c := range []struct {
		yaml string
		want router.Upgrades
		err  string
	}{
		{"", nil, ""},
		{"{upgrade_type: websocket}, {upgrade_type: foo, enabled: false}", router.Upgrades{{Protocol: "websocket", Enabled: true}, {Protocol: "foo"}}, ""},
		{"{upgrade_type: CONNECT, enabled: false}", router.Upgrades{{Protocol: "CONNECT"}}, ""},
		{"{upgrade_type: connect}", nil, "upgrade_configs[0]: upgrade_type: CONNECT is not supported"},
		{"{upgrade_type: a}, {}", nil, "upgrade_configs[1]: upgrade_type: must not be empty"},
		{"{upgrade_type: a}, {upgrade_type: A}", nil, `upgrade_configs[1]: upgrade_type: "A" is named twice`},
		{"{upgrade_type: a, filters: [{name: x}]}", nil, "upgrade_configs[0]: filters"},
	} {
		m := &hcmv3.HttpConnectionManager{}
		fromYAML(t, "upgrade_configs: ["+c.yaml+"]", m)
		got, err := compileUpgrades(m.GetUpgradeConfigs())
		if c.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("%s: %v, want %s", c.yaml, err, c.err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v", c.yaml, got, err)
		}
	}
}

func TestRouteUpgradeConfigs(t *testing.T) {
	_, r, _ := compileOne(t, "route: {cluster: a, upgrade_configs: [{upgrade_type: websocket, enabled: false}, {upgrade_type: foo}]}", "", "")
	if r.More == nil || !slices.Equal(r.More.Upgrades, router.Upgrades{{Protocol: "websocket"}, {Protocol: "foo", Enabled: true}}) {
		t.Errorf("%+v", r.More)
	}
}
