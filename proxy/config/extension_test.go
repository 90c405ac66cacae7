// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/http"
)

// TestDiscoveredFilters holds what of config_discovery is refused with the listener, and
// that a filter without a configuration is in its chain all the same.
func TestDiscoveredFilters(t *testing.T) {
	const fault, alpn = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault", "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"
	none := func(string) *anypb.Any { return nil }
	alpnConfig := func(string) *anypb.Any { return &anypb.Any{TypeUrl: alpn} }
	for _, c := range []struct {
		name, filter string
		lookup       func(string) *anypb.Any
		want         string // the error; empty: the filter is there
		came         bool
	}{
		{"no control plane", `"name": "x", "configDiscovery": {"typeUrls": ["` + fault + `"]}`, nil, "there is no control plane", false},
		{"no types", `"name": "x", "configDiscovery": {}`, none, "type_urls: is empty", false},
		{"no name", `"configDiscovery": {"typeUrls": ["` + fault + `"]}`, none, "name: is empty", false},
		{"a default of another type", `"name": "x", "configDiscovery": {"typeUrls": ["` + alpn + `"], "defaultConfig": {"@type": "` + fault + `"}}`, none, "default_config: typed_config: type", false},
		{"not come", `"name": "x", "configDiscovery": {"typeUrls": ["` + fault + `"]}`, none, "", false},
		{"come, of a type that listeners alone have", `"name": "x", "configDiscovery": {"typeUrls": ["` + alpn + `"]}`, alpnConfig, "", false},
		{"come", `"name": "x", "configDiscovery": {"typeUrls": ["` + fault + `"]}`, func(string) *anypb.Any { return &anypb.Any{TypeUrl: fault} }, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &hcmv3.HttpConnectionManager{}
			if err := protojson.Unmarshal([]byte(`{"statPrefix": "p", "httpFilters": [{`+c.filter+`}, {"name": "router", "typedConfig": {
				"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}`), m); err != nil {
				t.Fatal(err)
			}
			compiler := NewCompiler(Env{})
			defer compiler.Close()
			compiler.SetExtensions(c.lookup)
			s := &Snapshot{}
			ch, err := compiler.newChains(s, m, http.Inbound, func(string) {})
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, not %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			chain, err := ch.build()
			if err != nil {
				t.Fatal(err)
			}
			if len(ch.filters) != 1 || len(s.extensions) != 1 || s.extensions[0].Came != c.came {
				t.Errorf("filters %v, extensions %+v", ch.filters, s.extensions)
			}
			if answers := len(chain.Request) == 1; answers == c.came { // an empty fault does nothing
				t.Errorf("it answers requests: %t", answers)
			}
		})
	}
}
