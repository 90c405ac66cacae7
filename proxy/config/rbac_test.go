// SPDX-License-Identifier: Apache-2.0

package config

import (
	"io"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/test/rig"
)

// TestRBACRefuses: what isn't understood refuses the listener, by its name.
func TestRBACRefuses(t *testing.T) {
	any := `principals: [{any: true}]`
	permission := func(p string) string { return `rules: {policies: {p: {permissions: [` + p + `], ` + any + `}}}` }
	principal := func(p string) string {
		return `rules: {policies: {p: {permissions: [{any: true}], principals: [` + p + `]}}}`
	}
	const at = `rules.policies["p"].permissions[0]`
	for _, c := range []struct{ rbac, want string }{
		{`matcher: {}`, "matcher: is not supported"},
		{`shadow_matcher: {}`, "shadow_matcher: is not supported"},
		{`rules: {audit_logging_options: {audit_condition: ON_DENY}}`, "audit_logging_options"},
		{`rules: {action: 7}`, "rules.action"},
		{`rules: {policies: {p: {permissions: [{any: true}]}}}`, `rules.policies["p"].principals`},
		{`rules: {policies: {p: {` + any + `}}}`, `rules.policies["p"].permissions`},
		{`rules: {policies: {p: {permissions: [{any: true}], ` + any + `, condition: {}}}}`, `rules.policies["p"]: condition`},
		{`rules: {policies: {p: {permissions: [{any: true}], ` + any + `, checked_condition: {}}}}`, `checked_condition`},
		{`shadow_rules: {policies: {p: {permissions: [{}], ` + any + `}}}`, `shadow_rules.policies["p"].permissions[0]`},
		{permission(`{}`), at},
		{permission(`{any: false}`), at + ".any"},
		{permission(`{and_rules: {}}`), at + ".and_rules.rules"},
		{permission(`{or_rules: {rules: [{any: true}, {}]}}`), at + ".or_rules.rules[1]"},
		{permission(`{not_rule: {matcher: {name: m}}}`), at + ".not_rule.matcher"},
		{permission(`{header: {name: "a b", present_match: true}}`), at + ".header.name"},
		{permission(`{header: {name: a, string_match: {custom: {name: x}}}}`), at + ".header.string_match"},
		{permission(`{header: {name: a, string_match: {safe_regex: {regex: "("}}}}`), at + ".header.string_match.safe_regex.regex"},
		{permission(`{header: {name: a, string_match: {prefix: ""}}}`), at + ".header.string_match.prefix"},
		{permission(`{url_path: {}}`), at + ".url_path.path"},
		{permission(`{destination_port: 65536}`), at + ".destination_port"},
		{permission(`{destination_port_range: {start: 5, end: 5}}`), at + ".destination_port_range"},
		{permission(`{destination_ip: {address_prefix: x}}`), at + ".destination_ip.address_prefix"},
		{permission(`{destination_ip: {address_prefix: 1.2.3.4, prefix_len: 33}}`), at + ".destination_ip.prefix_len"},
		{permission(`{metadata: {path: [{key: a}], value: {present_match: true}}}`), at + ".metadata.filter"},
		{permission(`{metadata: {filter: a, value: {present_match: true}}}`), at + ".metadata.path"},
		{permission(`{metadata: {filter: a, path: [{key: a}]}}`), at + ".metadata.value"},
		{permission(`{metadata: {filter: a, path: [{key: a}], value: {list_match: {}}}}`), at + ".metadata.value.list_match"},
		{permission(`{metadata: {filter: a, path: [{key: a}], value: {or_match: {}}}}`), at + ".metadata.value.or_match"},
		{permission(`{sourced_metadata: {metadata_source: ROUTE, metadata_matcher: {filter: a}}}`), at + ".sourced_metadata.metadata_source"},
		{permission(`{uri_template: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: /a*}}}`),
			at + ".uri_template.typed_config.path_template"},
		{permission(`{requested_server_name: {}}`), at + ".requested_server_name"},
		{principal(`{}`), `principals[0]`},
		{principal(`{authenticated: {principal_name: {}}}`), `principals[0].authenticated.principal_name`},
		{principal(`{filter_state: {key: io.istio.peer_principal, string_match: {exact: a}}}`), `principals[0].filter_state`},
		{principal(`{custom: {name: x}}`), `principals[0].custom`},
		{principal(`{not_id: {filter_state: {key: a, string_match: {exact: a}}}}`), `principals[0].not_id.filter_state`},
		{permission(strings.Repeat(`{not_rule: `, 40) + `{any: true}` + strings.Repeat(`}`, 40)), "nested more than 32 deep"},
	} {
		filters := strings.TrimSuffix(rbacFilter, "}},") + ", " + c.rbac + "}},"
		l := &listenerv3.Listener{}
		fromYAML(t, strings.Replace(httpListener("", filters, `{match: {prefix: /}, direct_response: {status: 200}}`), "LOG", "/dev/null", 1), l)
		compiler := NewCompiler(Env{})
		if _, err := compiler.Compile(&Resources{Listeners: []*listenerv3.Listener{l}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v, want %q", c.rbac, err, c.want)
		}
		compiler.Close()
	}
}

// networkRBAC is a network filter in YAML.
func networkRBAC(more string) string {
	return `{name: rbac, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: tcp., ` + more + `}}`
}

func TestNetworkRBACRefuses(t *testing.T) {
	for _, c := range []struct{ rbac, want string }{
		{`matcher: {}`, "matcher"},
		{`delay_deny: 1s`, "delay_deny"},
		{`enforcement_type: 9`, "enforcement_type"},
		{`rules: ` + permit(`{header: {name: a, present_match: true}}`), "permissions[0].header: has no meaning"},
		{`rules: ` + permit(`{url_path: {path: {exact: /}}}`), "permissions[0].url_path: has no meaning"},
		{`rules: ` + admit(`{not_id: {header: {name: a, present_match: true}}}`), "principals[0].not_id.header: has no meaning"},
	} {
		l := &listenerv3.Listener{}
		fromYAML(t, strings.Replace(tcpChain(networkRBAC(c.rbac)+"\n  - "+tcpProxy("cluster: c")), "LOG", "/dev/null", 1), l)
		compiler := NewCompiler(Env{})
		if _, err := compiler.Compile(&Resources{Listeners: []*listenerv3.Listener{l}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v, want %q", c.rbac, err, c.want)
		}
		compiler.Close()
	}
}

// TestConnectionsAreAdmitted: a denied connection is closed without a byte from
// its host, counted, and the log says by which policy, as with Envoy.
func TestConnectionsAreAdmitted(t *testing.T) {
	host := tcpOrigin(t, say("hello"))
	for _, c := range []struct{ rules, text, log, counter string }{
		{refuse(`{destination_port_range: {start: 1, end: 65536}}`), "", "rbac_access_denied_matched_policy[ns[a]_policy[p]_rule[0]]", "tcp.rbac.denied"},
		{permit(`{destination_port: 1}`), "", "rbac_access_denied_matched_policy[none]", "tcp.rbac.denied"},
		{admit(`{source_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}`), "hello", "-", "tcp.rbac.allowed"},
		{admit(`{authenticated: {}}`), "", "rbac_access_denied_matched_policy[none]", "tcp.rbac.denied"},
	} {
		proxy := strings.Replace(tcpProxy("cluster: c"), "%RESPONSE_CODE%", "%CONNECTION_TERMINATION_DETAILS% %RESPONSE_CODE%", 1)
		r := serveTCP(t, tcpChain(networkRBAC(`shadow_rules_stat_prefix: dry_, rules: `+c.rules+`, shadow_rules: `+c.rules)+"\n  - "+proxy), tcpCluster("c", "", host))
		nc := r.dial()
		text, _ := io.ReadAll(nc)
		_ = nc.Close()
		if string(text) != c.text {
			t.Errorf("%s: the client gets %q, want %q", c.rules, text, c.text)
		}
		if line := r.line(); !strings.HasPrefix(line, c.log+" ") {
			t.Errorf("%s: the log says %s, want %s", c.rules, line, c.log)
		}
		r.wait(c.counter, 1)
		r.wait(strings.Replace(c.counter, "rbac.", "rbac.dry_.shadow_", 1), 1)
	}
}

// TestHTTPChainsAdmit: the same before an HTTP connection manager.
func TestHTTPChainsAdmit(t *testing.T) {
	listen := httpListener("", "", `{match: {prefix: /}, direct_response: {status: 200}}`)
	for rules, open := range map[string]bool{refuse(`{any: true}`): false, permit(`{any: true}`): true} {
		r := serveTCP(t, strings.Replace(listen, "  - name: hcm", "  - "+networkRBAC("rules: "+rules)+"\n  - name: hcm", 1))
		nc := r.dial()
		_ = nc.SetDeadline(time.Now().Add(rig.Patience))
		_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		text, _ := io.ReadAll(nc)
		if got := strings.HasPrefix(string(text), "HTTP/1.1 200"); got != open || !open && len(text) > 0 {
			t.Errorf("%s: the client gets %q", rules, text)
		}
	}
}

// TestRBACCounts: names and values are those of a real Envoy.
func TestRBACCounts(t *testing.T) {
	filters := strings.TrimSuffix(rbacFilter, "}},") + `, track_per_rule_stats: true, rules_stat_prefix: r_, shadow_rules_stat_prefix: istio_dry_run_allow_,
  rules: ` + refuse(`{url_path: {path: {exact: /no}}}`) + `, shadow_rules: ` + permit(`{url_path: {path: {exact: /s}}}`) + `}},`
	both := bothJudges(t, httpListener("", filters, `{match: {prefix: /}, direct_response: {status: 200}}`))
	names := []string{"http.in.rbac.r_.allowed", "http.in.rbac.r_.denied", "http.in.rbac.istio_dry_run_allow_.shadow_allowed",
		"http.in.rbac.istio_dry_run_allow_.shadow_denied", "http.in.rbac.r_.policy.ns[a] policy[p] rule[0].denied",
		"http.in.rbac.istio_dry_run_allow_.policy.ns[a]-policy[p]-rule[0].shadow_allowed"}
	want := []string{"2", "1", "1", "2", "1", "1"}
	for _, j := range both {
		for _, path := range []string{"/", "/no", "/s"} {
			if _, err := rig.Fetch("GET", "http://"+j.addr+path); err != nil && path != "/no" {
				t.Fatal(err)
			}
		}
		for i, name := range names {
			if got := j.values(t, name); got != want[i] {
				t.Errorf("%s: %s is %s, want %s", j.name, name, got, want[i])
			}
		}
	}
}

// fromYAMLText is fromYAML for seeds, which have to be right.
func fromYAMLText(text string, m proto.Message) {
	json, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = protojson.Unmarshal(json, m)
	}
	if err != nil {
		panic(err)
	}
}

// FuzzRBAC builds a filter from bytes and lets it decide: nothing panics, and
// what can't be built decides nothing.
func FuzzRBAC(f *testing.F) {
	for _, rules := range rbacRules {
		m := &rbacconfigv3.RBAC{}
		fromYAMLText(rules, m)
		b, _ := proto.Marshal(&httprbacv3.RBAC{Rules: m})
		f.Add(b, []byte("/a/b?q"), []byte("admin"), []byte("1.2.3.4"))
	}
	f.Fuzz(func(t *testing.T, config, path, value, client []byte) {
		c := NewCompiler(Env{})
		defer c.Close()
		built, err := buildRBAC(&chains{c: c}, &anypb.Any{TypeUrl: "type.googleapis.com/" + httpRBACType, Value: config}, nil)
		if err != nil || built == nil {
			return
		}
		ex := &http.Exchange{Conn: &http.ConnInfo{Local: "127.0.0.1:80", Remote: "x"}, ClientAddress: client}
		ex.Req.Path, ex.Req.RawMethod = path, value
		ex.Req.Fields.Add([]byte("x-role"), value)
		ex.Metadata.Set("envoy.filters.http.jwt_authn", map[string]any{"payload": map[string]any{"iss": string(value)}})
		if built.(filter.RequestFilter).OnRequest(ex) == filter.Reply && ex.LocalReply.Status != 403 {
			t.Errorf("it replies %+v", ex.LocalReply)
		}
	})
}
