// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
)

// extensionFilter is an EnvoyFilter with a filter whose configuration comes by itself, and
// that configuration.
func extensionFilter(typ, config string) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: extension, namespace: bookinfo}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: by-itself
        config_discovery:
          config_source: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}
          type_urls: [type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm]
  - applyTo: EXTENSION_CONFIG
    match: {context: SIDECAR_OUTBOUND}
    patch:
      operation: ADD
      value:
        name: by-itself
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.%s, %s}
`, typ, config)
}

// aborts is a fault that ends so many requests of a hundred.
func aborts(percent int) string {
	return fmt.Sprintf("abort: {http_status: 418, percentage: {numerator: %d}}", percent)
}

// TestPlaneExtension: a filter's configuration that istiod sends by itself takes effect,
// its updates close no connection, what is refused of it is refused by name while the last
// good one serves, and it shows in the dump and in the metrics.
func TestPlaneExtension(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	p.waitGeneration(0)
	answers := func(want int) {
		t.Helper()
		rig.Until(t, fmt.Sprintf("requests are answered with %d", want), func() error {
			status, body, _, err := p.get("stable.example")
			if err == nil && status != want {
				err = fmt.Errorf("%d %q", status, body)
			}
			return err
		})
	}
	l := p.startLoad(10, 250*time.Millisecond, "stable.example", "stable")
	fault := "fault.v3.HTTPFault"
	p.istiod.Apply(extensionFilter(fault, aborts(0)))
	reloads := "envoy_extension_config_discovery_http_filter_by_itself_config_reload"
	p.waitMetric(rig.Patience, atLeast(1), reloads)
	l.goesOn(20)
	answers(200)
	p.istiod.Apply(extensionFilter(fault, "delay: {fixed_delay: 0.001s, percentage: {numerator: 100}}"))
	p.waitMetric(rig.Patience, atLeast(2), reloads)
	l.goesOn(20)
	l.end() // no connection was closed

	p.istiod.Apply(extensionFilter(fault, aborts(100)))
	answers(418)
	if _, dump, err := ask("GET", "http://"+p.pod.admin+"/config_dump?resource=ecds_filters"); err != nil || !strings.Contains(dump, `"by-itself"`) {
		t.Errorf("the dump: %v %s", err, dump)
	}
	p.istiod.Apply(extensionFilter("wasm.v3.Wasm", "config: {name: w}"))
	p.waitLog(rig.Patience, "an update was refused in part", "extension configuration by-itself", "Wasm")
	answers(418)
	p.istiod.Apply(extensionFilter(fault, aborts(0)))
	answers(200)
	if n := p.metric("envoy_extension_config_discovery_http_filter_by_itself_config_fail"); n < 1 {
		t.Errorf("%v refusals are counted", n)
	}
	if err := p.ready(); err != nil {
		t.Error(err)
	}
}

// TestPlaneExtensionMissing: a proxy that starts with a filter whose configuration it can't
// take waits for a better one, and then answers every request with Envoy's error rather
// than without the filter.
func TestPlaneExtensionMissing(t *testing.T) {
	t.Parallel()
	p := startPlane(t, extensionFilter("wasm.v3.Wasm", "config: {name: w}"))
	status, body, _, err := p.get("stable.example")
	if err != nil || status != 500 || body != "" {
		t.Errorf("%v: %d %q", err, status, body)
	}
	p.istiod.Apply(extensionFilter("fault.v3.HTTPFault", aborts(0)))
	rig.Until(t, "requests are served", func() error {
		status, body, _, err := p.get("stable.example")
		if err == nil && status != 200 {
			err = fmt.Errorf("%d %q", status, body)
		}
		return err
	})
}
