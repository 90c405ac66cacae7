// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"pillion/proxy/router"
)

var (
	upgradeFields      = fieldSet("upgrade_type", "enabled")
	routeUpgradeFields = fieldSet("upgrade_type", "enabled")
)

// compileUpgrades compiles a connection manager's upgrade_configs.
func compileUpgrades(list []*hcmv3.HttpConnectionManager_UpgradeConfig) (router.Upgrades, error) {
	var out router.Upgrades
	for i, u := range list {
		err := onlyFields(u, upgradeFields)
		if err == nil {
			out, err = addUpgrade(out, u.GetUpgradeType(), u.GetEnabled() == nil || u.GetEnabled().GetValue())
		}
		if err != nil {
			return nil, fmt.Errorf("upgrade_configs[%d]: %w", i, err)
		}
	}
	return out, nil
}

// upgrades compiles a route's upgrade_configs.
func (c *routeCompiler) upgrades(out *router.Route, at *place, list []*routev3.RouteAction_UpgradeConfig) error {
	if len(list) == 0 {
		return nil
	}
	out.More = more(out)
	for i, u := range list {
		at := at.item("upgrade_configs", i)
		if err := c.only(at, u, routeUpgradeFields, nil); err != nil {
			return err
		}
		var err error
		out.More.Upgrades, err = addUpgrade(out.More.Upgrades, u.GetUpgradeType(), u.GetEnabled() == nil || u.GetEnabled().GetValue())
		if err != nil {
			return at.errorf("%w", err)
		}
	}
	return nil
}

func addUpgrade(list router.Upgrades, protocol string, enabled bool) (router.Upgrades, error) {
	switch _, twice := list.Find([]byte(protocol)); {
	case protocol == "":
		return nil, fmt.Errorf("upgrade_type: must not be empty")
	case strings.EqualFold(protocol, "CONNECT") && enabled:
		return nil, fmt.Errorf("upgrade_type: CONNECT is not supported")
	case twice:
		return nil, fmt.Errorf("upgrade_type: %q is named twice", protocol)
	}
	return append(list, router.Upgrade{Protocol: protocol, Enabled: enabled}), nil
}
