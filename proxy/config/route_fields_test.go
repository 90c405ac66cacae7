// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/proxy/http"
	"pillion/proxy/router"
)

// oneRoute wraps fields of a route, a virtual host and a table in YAML flow
// style into a route configuration.
func oneRoute(t testing.TB, route, vhost, table string) *routev3.RouteConfiguration {
	t.Helper()
	if !strings.Contains(route, "match:") {
		route = strings.TrimSuffix("match: {prefix: /}, "+route, ", ")
	}
	if !strings.Contains(route, "route:") && !strings.Contains(route, "redirect:") && !strings.Contains(route, "direct_response:") {
		route += ", route: {cluster: a}"
	}
	if vhost != "" {
		vhost += ", "
	}
	if table != "" {
		table += ", "
	}
	return routeYAML(t, fmt.Sprintf("{%svirtual_hosts: [{name: v, domains: ['*'], %sroutes: [{%s}]}]}", table, vhost, route))
}

// compileOne compiles one route and returns it with what the rig saw.
func compileOne(t *testing.T, route, vhost, table string) (*router.Table, *router.Route, *routeRig) {
	t.Helper()
	rig := newRouteRig()
	tab, err := CompileRoutes(oneRoute(t, route, vhost, table), rig.env())
	if err != nil {
		t.Fatalf("%s: %v", route, err)
	}
	_, all := tab.Explain(&routeRequest("GET h /").Req, 0)
	return tab, all[0].Route, rig
}

func TestRoutesRefused(t *testing.T) {
	const r = "virtual_hosts[0].routes[0]"
	for _, c := range []struct{ route, vhost, table, want string }{
		{"route: {cluster: a, hedge_policy: {initial_requests: 2}}", "", "", r + ".route.hedge_policy: is not supported"},
		{"route: {cluster_header: x}", "", "", r + ".route.cluster_header: is not supported"},
		{"route: {timeout: 1s}", "", "", r + ".route: it needs one of cluster and weighted_clusters"},
		{"route: {cluster: ''}", "", "", r + ".route.cluster: must not be empty"},
		{"route: {cluster: a, priority: HIGH}", "", "", r + ".route.priority: is not supported"},
		{"route: {cluster: a, auto_host_rewrite: true}", "", "", r + ".route.auto_host_rewrite: is not supported"},
		{"route: {cluster: a, timeout: -1s}", "", "", r + ".route.timeout: -1s is negative"},
		{"route: {cluster: a, prefix_rewrite: '/a b'}", "", "", r + ".route.prefix_rewrite: \"/a b\" holds a space"},
		{"route: {cluster: a, host_rewrite_literal: \"a\\nb\"}", "", "", r + ".route.host_rewrite_literal: \"a\\nb\" holds a space or a control character"},
		{"route: {cluster: a, prefix_rewrite: /, regex_rewrite: {pattern: {regex: a}, substitution: b}}", "", "", r + ".route.regex_rewrite: can't be combined"},
		{"route: {cluster: a, regex_rewrite: {pattern: {regex: '('}, substitution: b}}", "", "", r + ".route.regex_rewrite.pattern.regex: regular expression"},
		{"route: {cluster: a, regex_rewrite: {pattern: {regex: a}, substitution: 'b c'}}", "", "", r + ".route.regex_rewrite.substitution: "},
		{"route: {cluster: a, retry_policy: {retry_on: 5xx, retriable_headers: [{name: x}]}}", "", "", r + ".route.retry_policy.retriable_headers: is not supported"},
		{"route: {cluster: a, retry_policy: {retriable_status_codes: [503, 1000]}}", "", "", r + ".route.retry_policy.retriable_status_codes[1]: 1000 is no status"},
		{"route: {cluster: a, retry_policy: {retry_back_off: {base_interval: 2s, max_interval: 1s}}}", "", "", r + ".route.retry_policy.retry_back_off.max_interval: 1s is below"},
		{"route: {cluster: a, retry_policy: {retry_host_predicate: [{name: envoy.retry_host_predicates.omit_canary_hosts}]}}", "", "", r + ".route.retry_policy.retry_host_predicate[0]: "},
		{"route: {cluster: a, hash_policy: [{filter_state: {key: x}}]}", "", "", r + ".route.hash_policy[0]: only header"},
		{"route: {cluster: a, hash_policy: [{header: {header_name: a}}, {cookie: {name: 'a b'}}]}", "", "", r + ".route.hash_policy[1].cookie.name: "},
		{"route: {cluster: a, request_mirror_policies: [{cluster_header: x}]}", "", "", r + ".route.request_mirror_policies[0].cluster_header: is not supported"},
		{"route: {cluster: a, max_stream_duration: {max_stream_duration: -1s}}", "", "", r + ".route.max_stream_duration.max_stream_duration: -1s is negative"},
		{"route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}", "", "", r + ".route.weighted_clusters: the weights add up to 0"},
		{"route: {weighted_clusters: {clusters: [{name: a, weight: 4294967295}, {name: b, weight: 1}]}}", "", "", "add up to 4294967296"},
		{"route: {weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b}]}}", "", "", r + ".route.weighted_clusters.clusters[1].weight: is needed"},
		{"route: {weighted_clusters: {clusters: [{name: a, weight: 1, cluster_header: x}]}}", "", "", "clusters[0].cluster_header: is not supported"},
		{"route: {weighted_clusters: {header_name: x, clusters: [{name: a, weight: 1}]}}", "", "", r + ".route.weighted_clusters.header_name: is not supported"},

		{"match: {headers: [{name: x}]}", "", "", r + ".match: it needs one of prefix"},
		{"match: {prefix: /, dynamic_metadata: [{filter: x, path: [{key: a}], value: {present_match: true}}]}", "", "", r + ".match.dynamic_metadata: is not supported"},
		{"match: {connect_matcher: {}}", "", "", r + ".match.connect_matcher: is not supported"},
		{"match: {safe_regex: {regex: '['}}", "", "", r + ".match.safe_regex.regex: regular expression"},
		{"match: {path_separated_prefix: /a/}", "", "", r + ".match.path_separated_prefix: \"/a/\" must not"},
		{"match: {prefix: /, headers: [{name: a}, {name: 'b c'}]}", "", "", r + ".match.headers[1].name: \"b c\" is not a header name"},
		{"match: {prefix: /, headers: [{name: a, string_match: {prefix: ''}}]}", "", "", r + ".match.headers[0].string_match.prefix: must not be empty"},
		{"match: {prefix: /, headers: [{name: a, string_match: {safe_regex: {regex: a}, ignore_case: true}}]}", "", "", r + ".match.headers[0].string_match.ignore_case: has no effect on safe_regex"},
		{"match: {prefix: /, query_parameters: [{string_match: {exact: a}}]}", "", "", r + ".match.query_parameters[0].name: is needed"},

		{"redirect: {response_code: 9}", "", "", r + ".redirect.response_code: 9 is not known"},
		{"redirect: {path_redirect: \"/a\\r\\nb: c\"}", "", "", r + ".redirect.path_redirect: "},
		{"redirect: {port_redirect: 70000}", "", "", r + ".redirect.port_redirect: 70000 is no port"},
		{"direct_response: {status: 101}", "", "", r + ".direct_response.status: 101 is no final status"},
		{"direct_response: {status: 200, body: {filename: /etc/passwd}}", "", "", r + ".direct_response.body: only inline_string"},
		{"direct_response: {status: 200, body: {inline_string: abcdef}}", "", "max_direct_response_body_size_bytes: 5", r + ".direct_response.body: has 6 bytes, more than the 5"},
		{"direct_response: {status: 200, body_format: {text_format: x}}", "", "", r + ".direct_response.body_format: is not supported"},

		{"request_headers_to_add: [{header: {key: a, value: b}}, {header: {key: ':path', value: b}}]", "", "", r + ".request_headers_to_add[1].header: :path: :path is not a header"},
		{"response_headers_to_remove: [content-length]", "", "", r + ".response_headers_to_remove[0]: content-length can't be removed"},
		{"request_headers_to_add: [{header: {key: a, value: '%NOPE%'}}]", "", "", r + ".request_headers_to_add[0].header: a: at offset 0: the operator %NOPE%"},
		{"request_headers_to_add: [{header: {key: a, value: b}, append: false, append_action: ADD_IF_ABSENT}]", "", "", r + ".request_headers_to_add[0].append_action: can't be combined with append"},
		{"request_headers_to_add: [{header: {key: a, value: b, raw_value: Yg==}}]", "", "", r + ".request_headers_to_add[0].header.raw_value: can't"},
		{"typed_per_filter_config: {bad: {}}", "", "", r + ".typed_per_filter_config: bad: is not a filter"},

		{"", "hedge_policy: {}", "", "virtual_hosts[0].hedge_policy: is not supported"},
		{"", "retry_policy: {per_try_timeout: -1s}", "", "virtual_hosts[0].retry_policy.per_try_timeout: -1s is negative"},
		{"", "request_mirror_policies: [{}]", "", "virtual_hosts[0].request_mirror_policies[0].cluster: must not be empty"},
		{"", "request_headers_to_remove: [host]", "", "virtual_hosts[0].request_headers_to_remove[0]: host can't be removed"},
		{"", "", "vhds: {}", "vhds: is not supported"},
		{"", "", "internal_only_headers: [x]", "internal_only_headers: is not supported"},
		{"", "", "request_mirror_policies: [{cluster: a, runtime_fraction: {}, request_headers_mutations: [{remove: x}]}]", "request_mirror_policies[0].request_headers_mutations: is not supported"},
		{"", "", "response_headers_to_add: [{header: {key: 'x y'}}]", "response_headers_to_add[0].header: x y: \"x y\" is not a header name"},
	} {
		if strings.Contains(c.route, "bad: {}") {
			rc := oneRoute(t, "", "", "")
			rc.VirtualHosts[0].Routes[0].TypedPerFilterConfig = map[string]*anypb.Any{"bad": {}}
			_, err := CompileRoutes(rc, newRouteRig().env())
			checkRefused(t, c.route, err, c.want)
			continue
		}
		_, err := CompileRoutes(oneRoute(t, c.route, c.vhost, c.table), newRouteRig().env())
		checkRefused(t, c.route+c.vhost+c.table, err, c.want)
	}
}

func checkRefused(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v\nwant %s", what, err, want)
	}
}

func TestDomainRefused(t *testing.T) {
	rc := routeYAML(t, "{virtual_hosts: [{name: a, domains: [x]}, {name: b, domains: [w, X]}]}")
	_, err := CompileRoutes(rc, newRouteRig().env())
	checkRefused(t, "a domain twice", err, `virtual_hosts[1].domains[1]: "X" is that of another virtual host`)
	_, err = CompileRoutes(routeYAML(t, "{virtual_hosts: [{name: a}]}"), newRouteRig().env())
	checkRefused(t, "no domain", err, "virtual_hosts[0].domains: at least one is needed")
}

func TestValidateClusters(t *testing.T) {
	env := newRouteRig().env()
	env.Cluster = func(string) router.Cluster { return nil }
	_, err := CompileRoutes(oneRoute(t, "", "", "validate_clusters: true"), env)
	checkRefused(t, "a missing cluster", err, `routes[0].route.cluster: there is no cluster "a"`)
	if _, err = CompileRoutes(oneRoute(t, "", "", "validate_clusters: false"), env); err != nil {
		t.Errorf("a cluster that may come later: %v", err)
	}
}

// TestNoFieldIsForgotten sets each field of each message that is not known
// here, and wants it refused by name: a new version of the API adds fields.
func TestNoFieldIsForgotten(t *testing.T) {
	count := 0
	for _, m := range []struct {
		path  string
		of    func(rc *routev3.RouteConfiguration) proto.Message
		known []map[protoreflect.Name]bool
	}{
		{"", func(rc *routev3.RouteConfiguration) proto.Message { return rc }, []map[protoreflect.Name]bool{tableFields}},
		{"virtual_hosts[0].", func(rc *routev3.RouteConfiguration) proto.Message { return rc.VirtualHosts[0] }, []map[protoreflect.Name]bool{vhostFields, vhostPassed}},
		{"virtual_hosts[0].routes[0].", func(rc *routev3.RouteConfiguration) proto.Message { return rc.VirtualHosts[0].Routes[0] }, []map[protoreflect.Name]bool{routeFields, routePassed}},
		{"virtual_hosts[0].routes[0].match.", func(rc *routev3.RouteConfiguration) proto.Message { return rc.VirtualHosts[0].Routes[0].Match }, []map[protoreflect.Name]bool{matchFields}},
		{"virtual_hosts[0].routes[0].route.", func(rc *routev3.RouteConfiguration) proto.Message { return rc.VirtualHosts[0].Routes[0].GetRoute() }, []map[protoreflect.Name]bool{actionFields}},
		{"virtual_hosts[0].routes[0].route.weighted_clusters.", func(rc *routev3.RouteConfiguration) proto.Message {
			return rc.VirtualHosts[0].Routes[0].GetRoute().GetWeightedClusters()
		}, []map[protoreflect.Name]bool{weightedFields, weightedPassed}},
		{"virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].", func(rc *routev3.RouteConfiguration) proto.Message {
			return rc.VirtualHosts[0].Routes[0].GetRoute().GetWeightedClusters().GetClusters()[0]
		}, []map[protoreflect.Name]bool{weightFields}},
		{"virtual_hosts[0].routes[0].route.retry_policy.", func(rc *routev3.RouteConfiguration) proto.Message {
			return rc.VirtualHosts[0].Routes[0].GetRoute().GetRetryPolicy()
		}, []map[protoreflect.Name]bool{retryFields}},
		{"virtual_hosts[0].routes[0].route.request_mirror_policies[0].", func(rc *routev3.RouteConfiguration) proto.Message {
			return rc.VirtualHosts[0].Routes[0].GetRoute().GetRequestMirrorPolicies()[0]
		}, []map[protoreflect.Name]bool{mirrorFields}},
	} {
		fields := m.of(fullRoute(t)).ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			known := false
			for _, k := range m.known {
				known = known || k[fd.Name()]
			}
			if known {
				continue
			}
			rc := fullRoute(t)
			setSomething(m.of(rc).ProtoReflect(), fd)
			_, err := CompileRoutes(rc, newRouteRig().env())
			checkRefused(t, string(fd.FullName()), err, m.path+string(fd.Name())+": is not supported")
			count++
		}
	}
	if count < 50 {
		t.Errorf("only %d fields were tried", count)
	}
}

func fullRoute(t testing.TB) *routev3.RouteConfiguration {
	return oneRoute(t, "route: {weighted_clusters: {clusters: [{name: a, weight: 1}]}, retry_policy: {retry_on: 5xx}, request_mirror_policies: [{cluster: b}]}", "", "")
}

// setSomething gives a field a value that is not its default.
func setSomething(m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	switch {
	case fd.IsMap():
		mv := m.Mutable(fd).Map()
		mv.Set(protoreflect.ValueOfString("k").MapKey(), mv.NewValue())
	case fd.IsList():
		l := m.Mutable(fd).List()
		l.Append(l.NewElement())
	case fd.Message() != nil:
		m.Mutable(fd)
	case fd.Kind() == protoreflect.StringKind:
		m.Set(fd, protoreflect.ValueOfString("x"))
	case fd.Kind() == protoreflect.BoolKind:
		m.Set(fd, protoreflect.ValueOfBool(true))
	case fd.Kind() == protoreflect.EnumKind:
		m.Set(fd, protoreflect.ValueOfEnum(1))
	case fd.Kind() == protoreflect.Uint32Kind:
		m.Set(fd, protoreflect.ValueOfUint32(1))
	}
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	rc := oneRoute(t, "", "", "")
	rc.VirtualHosts[0].Routes[0].ProtoReflect().SetUnknown(protoreflect.RawFields{0xf8, 0x7f, 0x01})
	_, err := CompileRoutes(rc, newRouteRig().env())
	checkRefused(t, "an unknown field", err, "virtual_hosts[0].routes[0]: holds fields that this build doesn't know")
}

func TestRouteWarnings(t *testing.T) {
	for _, c := range []struct{ route, vhost, want string }{
		{"stat_prefix: x", "", "virtual_hosts[0].routes[0].stat_prefix: has no effect here"},
		{"", "virtual_clusters: [{name: x}]", "virtual_hosts[0].virtual_clusters: has no effect here"},
		{"route: {cluster: a, retry_policy: {retry_on: '5xx,nope'}}", "", `retry_policy.retry_on: "nope" is no reason to retry`},
		{"route: {cluster: a, regex_rewrite: {pattern: {regex: a}, substitution: '\\1'}}", "", "regex_rewrite: substitution"},
		{"route: {cluster: a, idle_timeout: 3s}", "", "route.idle_timeout: has no effect"},
		{"route: {weighted_clusters: {total_weight: 7, clusters: [{name: a, weight: 1}]}}", "", "total_weight: differs"},
		{"route: {weighted_clusters: {runtime_key_prefix: x, clusters: [{name: a, weight: 1}]}}", "", "runtime_key_prefix: has no effect"},
	} {
		_, _, rig := compileOne(t, c.route, c.vhost, "")
		if len(rig.warnings) != 1 || !strings.Contains(rig.warnings[0], c.want) {
			t.Errorf("%s%s: %q, want %q", c.route, c.vhost, rig.warnings, c.want)
		}
	}
}

func TestRouteActions(t *testing.T) {
	_, r, rig := compileOne(t, "", "", "")
	if r.Timeout != 15*time.Second || r.Retry != nil || r.NotFoundStatus != 503 || r.More != nil || r.Rewrite != nil || len(rig.warnings) > 0 {
		t.Errorf("the plainest route is %+v", r)
	}
	_, r, _ = compileOne(t, "route: {cluster: a, timeout: 0s, idle_timeout: 3s, cluster_not_found_response_code: NOT_FOUND, max_grpc_timeout: 2s, grpc_timeout_offset: 0.1s}",
		"per_request_buffer_limit_bytes: 7, retry_policy: {retry_on: reset}", "")
	m := r.More
	if r.Timeout != 0 || r.NotFoundStatus != 404 || !m.HasIdleTimeout || m.IdleTimeout != 3*time.Second ||
		m.GRPC != (router.GRPCTimeout{Set: true, Max: 2 * time.Second, Offset: 100 * time.Millisecond}) || !m.HasBufferLimit || m.BufferLimit != 7 {
		t.Errorf("the route is %+v with %+v", r, m)
	}
	if r.Retry == nil || r.Retry.On != router.RetryOnReset || r.Retry.NumRetries != 1 || r.Retry.HostAttempts != 1 {
		t.Errorf("the virtual host's retry policy becomes %+v", r.Retry)
	}
	_, r, _ = compileOne(t, "request_body_buffer_limit: 9, route: {cluster: a, max_grpc_timeout: 2s, max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0s}}", "", "")
	if m := r.More; m.GRPC.Set || !m.HasMaxStream || m.MaxStream != 0 || m.StreamGRPC != (router.GRPCTimeout{Set: true}) || m.BufferLimit != 9 {
		t.Errorf("the newer timeouts become %+v", m)
	}
	_, r, _ = compileOne(t, "route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 0, retry_back_off: {base_interval: 0.0001s}, retry_priority: {name: p, typed_config: "+
		"{'@type': type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 2}}}}", "", "")
	if p := r.Retry; p.NumRetries != 0 || p.BackoffBase != time.Millisecond || p.AvoidPreviousPriorities != 2 {
		t.Errorf("the retry policy is %+v", p)
	}
}

// Mirrors are taken from the most specific level that has any.
func TestMirrorsAreInherited(t *testing.T) {
	level := func(name string) string { return "request_mirror_policies: [{cluster: " + name + "}]" }
	for _, c := range []struct{ route, vhost, table, want string }{
		{"route: {cluster: a, " + level("route") + "}", level("vhost"), level("table"), "route"},
		{"", level("vhost"), level("table"), "vhost"},
		{"", "", level("table"), "table"},
	} {
		_, r, _ := compileOne(t, c.route, c.vhost, c.table)
		if m := r.Mirrors(); len(m) != 1 || m[0].Cluster.Name() != c.want || !m[0].Takes(1, 0) || m[0].HasTraced {
			t.Errorf("the mirrors are %+v, want %s", m, c.want)
		}
	}
}

func TestOverridesReachTheChains(t *testing.T) {
	const fault = "envoy.filters.http.fault: {'@type': type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}"
	const cors = "envoy.filters.http.cors: {'@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy}"
	on := func(list string) string { return "typed_per_filter_config: {" + list + "}" }
	weighted := "route: {weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 1, " + on(fault) + "}]}}"
	for _, c := range []struct{ route, vhost, table, want, second string }{
		{"", "", "", "", ""},
		{on(fault), on(cors), "", "cors=vhost fault=route", ""},
		{"", on(fault), on(fault + ", " + cors), "cors=table fault=vhost", ""},
		{weighted + ", " + on(cors), "", "", "cors=route", "cors=route fault=target"},
		// The CORS filter leaves alone what is not forwarded.
		{"direct_response: {status: 200}, " + on(cors+", "+fault), on(cors), "", "fault=route", ""},
		{"redirect: {}", on(cors), "", "", ""},
	} {
		_, r, rig := compileOne(t, c.route, c.vhost, c.table)
		if got := rig.chains[r.Chain]; got != c.want {
			t.Errorf("%s: the chain has %q, want %q", c.route, got, c.want)
		}
		if len(r.Targets) > 0 && r.Targets[0].Chain != r.Chain {
			t.Errorf("%s: the target has a chain of its own", c.route)
		}
		if len(r.Targets) > 1 {
			if got := rig.chains[r.Targets[1].Chain]; got != c.second {
				t.Errorf("%s: the second target has %q, want %q", c.route, got, c.second)
			}
		}
	}
}

func TestTableOptions(t *testing.T) {
	tab, _, _ := compileOne(t, "match: {path: /x}, route: {cluster: a, prefix_rewrite: /y}", "require_tls: ALL", "name: tab, ignore_path_parameters_in_path_matching: true")
	ex := routeRequest("GET h /x;a=b", "x-forwarded-proto: https")
	_, r := tab.Match(&ex.Req, 0)
	if tab.Name() != "tab" || r == nil || r.Kind != router.Forward {
		t.Fatalf("%s: %+v", tab.Name(), r)
	}
	if _, r := tab.Match(&routeRequest("GET h /x").Req, 0); r.Kind != router.Redirect || r.Chain == nil {
		t.Errorf("without TLS it is %+v", r)
	}
	env := newRouteRig().env()
	env.SuppressEnvoyHeaders = true
	quiet, err := CompileRoutes(oneRoute(t, "route: {cluster: a, prefix_rewrite: /y}", "", ""), env)
	if err != nil {
		t.Fatal(err)
	}
	ex = routeRequest("GET h /x")
	_, r = quiet.Match(&ex.Req, 0)
	r.ApplyRequest(ex, r.Target(0))
	if ex.Req.Fields.Has(http.HeaderXEnvoyOriginalPath) || string(ex.Req.Path) != "/yx" {
		t.Errorf("%s with %s", ex.Req.Path, routeLines(&ex.Req.Fields))
	}
}

// manyRoutes is n services as istiod describes them: six domains, and one
// route to two subsets by weight, with the default policies.
func manyRoutes(t testing.TB, n int) []byte {
	rc := &routev3.RouteConfiguration{Name: "9080", IgnorePortInHostMatching: true, MaxDirectResponseBodySizeBytes: wrapperspb.UInt32(1 << 20)}
	mesh := receiveRoutes(t, "full-productpage-v1")["9080"]
	for i := range n {
		name := fmt.Sprintf("service-%d", i)
		fqdn := name + ".default.svc.cluster.local"
		vh := &routev3.VirtualHost{Name: fqdn + ":9080", IncludeRequestAttemptCount: true,
			Domains: []string{fqdn, fqdn + ".", name, name + ".default.svc", name + ".default", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}}
		for _, v := range mesh.GetVirtualHosts() {
			if strings.HasPrefix(v.GetName(), "reviews") {
				r := proto.Clone(v.GetRoutes()[1]).(*routev3.Route)
				for k, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
					w.Name = fmt.Sprintf("outbound|9080|v%d|%s", k+1, fqdn)
				}
				r.Decorator.Operation = name + ":9080/*"
				vh.Routes = append(vh.Routes, r)
			}
		}
		rc.VirtualHosts = append(rc.VirtualHosts, vh)
	}
	raw, err := proto.Marshal(rc)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// heapOf returns how much heap is given back when what build returned goes.
func heapOf(build func() any) uint64 {
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	kept := build()
	with := inUse()
	runtime.KeepAlive(kept)
	kept = nil
	return with - inUse()
}

// TestRouteMemory holds what a compiled virtual host may cost: a mesh has
// thousands.
func TestRouteMemory(t *testing.T) {
	const n, most = 1000, 2560
	raw := manyRoutes(t, n)
	rig := newRouteRig()
	env := rig.env()
	compile := func() any {
		rc := &routev3.RouteConfiguration{}
		if err := proto.Unmarshal(raw, rc); err != nil {
			t.Fatal(err)
		}
		table, err := CompileRoutes(rc, env)
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	compile() // makes the clusters, which are not the table's
	per := heapOf(compile) / n
	t.Logf("%d bytes a virtual host", per)
	if per > most {
		t.Errorf("a virtual host costs %d bytes, more than %d", per, most)
	}
}

func BenchmarkCompileRoutes(b *testing.B) {
	rc := &routev3.RouteConfiguration{}
	if err := proto.Unmarshal(manyRoutes(b, 1000), rc); err != nil {
		b.Fatal(err)
	}
	env := newRouteRig().env()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CompileRoutes(rc, env); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzCompileRoutes holds that no bytes make the compiler panic, that what it
// refuses it refuses with a reason, and that what it accepts can serve any
// request.
func FuzzCompileRoutes(f *testing.F) {
	for _, node := range []string{"full-productpage-v1", "kitchen-ingressgateway"} {
		for _, rc := range receiveRoutes(f, node) {
			for _, vh := range rc.GetVirtualHosts() {
				for _, r := range vh.GetRoutes() {
					one := &routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{{Domains: []string{"*"}, Routes: []*routev3.Route{r}}}}
					raw, err := proto.Marshal(one)
					if err != nil {
						f.Fatal(err)
					}
					f.Add(raw, "reviews:9080", "/re/1?q=a")
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, host, path string) {
		rc := &routev3.RouteConfiguration{}
		if proto.Unmarshal(raw, rc) != nil {
			return
		}
		table, err := CompileRoutes(rc, newRouteRig().env())
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a word")
			}
			return
		}
		for _, vh := range rc.GetVirtualHosts() {
			for _, d := range append(vh.GetDomains(), host) {
				ex := &http.Exchange{Req: http.RequestHead{Authority: []byte(d), Path: []byte(path)}}
				_, r := table.Match(&ex.Req, 1)
				table.Explain(&ex.Req, 1)
				if r == nil {
					continue
				}
				var target *router.Target
				if r.Kind == router.Forward {
					target = r.Target(1)
					r.ApplyRequest(ex, target)
					r.Hash(ex)
					r.TimesFor(ex)
				} else {
					r.Direct(ex)
				}
				r.ApplyResponse(ex, target)
			}
		}
	})
}
