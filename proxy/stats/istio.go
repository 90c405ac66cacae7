// SPDX-License-Identifier: Apache-2.0

package stats

// istioRules are the stats_tags of the bootstrap that Istio gives its Envoy
// (istio.io/istio/tools/packaging/common/envoy_bootstrap.json), before and after
// those of extra tags. A ';' ends the names of clusters and connection managers
// that istiod makes; what has none keeps its name in that of the metric. The
// expressions are Istio's but for a look-ahead, which Go's don't have: a '.' has
// to follow "listener".
var (
	istioRules = []TagRule{
		{"cluster_name", `^cluster(\.(.+);)`},
		{"http_conn_manager_prefix", `^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)`},
		{"thread_name", `^server(\.(.+))\.watchdog`},
		{"tcp_prefix", `^tcp\.((.*?)\.)\w+?$`},
		{"response_code", `_rq(_(\d{3}))$`},
		{"response_code_class", `_rq(_(\dxx))$`},
		{"http_conn_manager_listener_prefix", `^listener(?:\..*?)?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)`},
		{"listener_address", `^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)`},
		{"mongo_prefix", `^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$`},
	}
	istioLastRules = []TagRule{
		{"cache", `(cache\.(.+?)\.)`},
		{"component", `(component\.(.+?)\.)`},
		{"tag", `(tag\.(.+?);\.)`},
		{"wasm_filter", `(wasm_filter\.(.+?)\.)`},
		{"authz_enforce_result", `rbac(\.(allowed|denied))`},
		{"authz_dry_run_action", `(\.istio_dry_run_(allow|deny)_)`},
		{"authz_dry_run_result", `(\.shadow_(allowed|denied))`},
	}
)

// IstioTags are the tags of a proxy in Istio's mesh. extra are further ones
// (ProxyConfig.extra_stat_tags), found in names of the form that Istio's filters
// used to give: "tag=.=value;.;".
func IstioTags(extra []string) (*Tags, error) {
	rules := append([]TagRule(nil), istioRules...)
	for _, tag := range extra {
		rules = append(rules, TagRule{tag, "(" + tag + `=\.=(.*?);\.;)`})
	}
	return NewTags(append(rules, istioLastRules...))
}
