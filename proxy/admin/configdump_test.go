// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const password = "hunter2"

// secretTLS is a transport socket with a key in it.
func secretTLS(t testing.TB) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(t, &tlsv3.UpstreamTlsContext{
		Sni: "a.b",
		CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificates: []*tlsv3.TlsCertificate{{
			CertificateChain: inline("public"),
			PrivateKey:       inline(password),
			Password:         &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte(password)}},
		}}},
	})}}
}

func inline(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

var dumpTime = time.Date(2026, 1, 2, 3, 4, 5, 678912345, time.UTC)

func testDump(t testing.TB) Dump {
	cluster := func(name string) *anypb.Any {
		return pack(t, &clusterv3.Cluster{Name: name, AltStatName: name + ";", ConnectTimeout: durationpb.New(1e9), TransportSocket: secretTLS(t)})
	}
	listener := pack(t, &listenerv3.Listener{Name: "l1", FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, &hcmv3.HttpConnectionManager{
			StatPrefix: "p",
			HttpFilters: []*hcmv3.HttpFilter{{Name: "new", ConfigType: &hcmv3.HttpFilter_TypedConfig{
				TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/some.unknown.Filter", Value: []byte("\x08\x01")}}}},
		})},
	}}}}})
	at := func(name string, a *anypb.Any) Resource {
		return Resource{Name: name, Version: "7", Updated: dumpTime, Message: a}
	}
	static, warming := at("static", cluster("static")), at("warming", cluster("warming"))
	static.Static, warming.Warming = true, true
	warmingListener := at("l2", pack(t, &listenerv3.Listener{Name: "l2"}))
	warmingListener.Warming = true
	boot := at("", pack(t, &bootstrapv3.Bootstrap{Node: &corev3.Node{Id: "n1", Cluster: "c1"}}))
	return Dump{
		Bootstrap:       &boot,
		Clusters:        []Resource{static, at("a", cluster("a")), at("b", cluster("b")), warming},
		Listeners:       []Resource{at("l1", listener), warmingListener},
		Routes:          []Resource{at("80", pack(t, &routev3.RouteConfiguration{Name: "80"}))},
		Endpoints:       []Resource{at("a", pack(t, &endpointv3.ClusterLoadAssignment{ClusterName: "a"}))},
		Secrets:         []Resource{at("default", pack(t, &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: inline(password)}}}))},
		ClustersVersion: "7", ListenersVersion: "8",
	}
}

// configs returns the dump's parts by the last part of their type.
func configs(t *testing.T, body string) map[string]map[string]any {
	t.Helper()
	var doc struct{ Configs []map[string]any }
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	out := map[string]map[string]any{}
	for _, c := range doc.Configs {
		name := c["@type"].(string)
		out[name[strings.LastIndexByte(name, '.')+1:]] = c
	}
	return out
}

// at follows a path of keys and list indices through JSON.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch k := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("%v: %v is no object", path, v)
			}
			v = m[k]
		case int:
			l, ok := v.([]any)
			if !ok || k >= len(l) {
				t.Fatalf("%v: no element %d in %v", path, k, v)
			}
			v = l[k]
		}
	}
	return v
}

func TestConfigDump(t *testing.T) {
	f, h := newFake()
	f.dump = testDump(t)
	res, body := ask(t, h, "GET", "/config_dump")
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s", res.StatusCode, res.Header.Get("Content-Type"))
	}
	c := configs(t, body)
	if got := slices.Sorted(maps.Keys(c)); !slices.Equal(got, []string{"BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump", "SecretsConfigDump"}) {
		t.Errorf("parts: %q", got)
	}
	for _, e := range []struct {
		want any
		path []any
	}{
		{"n1", []any{"BootstrapConfigDump", "bootstrap", "node", "id"}},
		{"2026-01-02T03:04:05.678Z", []any{"BootstrapConfigDump", "last_updated"}},
		{"7", []any{"ClustersConfigDump", "version_info"}},
		{"static", []any{"ClustersConfigDump", "static_clusters", 0, "cluster", "name"}},
		{"type.googleapis.com/envoy.config.cluster.v3.Cluster", []any{"ClustersConfigDump", "static_clusters", 0, "cluster", "@type"}},
		{"b;", []any{"ClustersConfigDump", "dynamic_active_clusters", 1, "cluster", "alt_stat_name"}},
		{"7", []any{"ClustersConfigDump", "dynamic_active_clusters", 1, "version_info"}},
		{"warming", []any{"ClustersConfigDump", "dynamic_warming_clusters", 0, "cluster", "name"}},
		{"8", []any{"ListenersConfigDump", "version_info"}},
		{"l1", []any{"ListenersConfigDump", "dynamic_listeners", 0, "name"}},
		{"p", []any{"ListenersConfigDump", "dynamic_listeners", 0, "active_state", "listener", "filter_chains", 0, "filters", 0, "typed_config", "stat_prefix"}},
		{"l2", []any{"ListenersConfigDump", "dynamic_listeners", 1, "warming_state", "listener", "name"}},
		{"80", []any{"RoutesConfigDump", "dynamic_route_configs", 0, "route_config", "name"}},
		{"default", []any{"SecretsConfigDump", "dynamic_active_secrets", 0, "name"}},
	} {
		var doc any = map[string]any{}
		for k, v := range c {
			doc.(map[string]any)[k] = v
		}
		if got := at(t, doc, e.path...); got != e.want {
			t.Errorf("%v = %v, want %v", e.path, got, e.want)
		}
	}
	// What nobody knows is shown as it is.
	unknown := at(t, c["ListenersConfigDump"], "dynamic_listeners", 0, "active_state", "listener", "filter_chains", 0, "filters", 0,
		"typed_config", "http_filters", 0, "typed_config")
	if fmt.Sprint(unknown) != "map[@type:type.googleapis.com/some.unknown.Filter value:CAE=]" {
		t.Errorf("an unknown type is shown as %v", unknown)
	}
	_, body = ask(t, h, "GET", "/config_dump?include_eds=true")
	if got := at(t, configs(t, body)["EndpointsConfigDump"], "dynamic_endpoint_configs", 0, "endpoint_config", "cluster_name"); got != "a" {
		t.Errorf("endpoints of %v", got)
	}
}

// TestDumpOfStates: a listener's states are in one place, and what was refused
// is there with the reason, whether something is served or not.
func TestDumpOfStates(t *testing.T) {
	f, h := newFake()
	listener := func(stat string) *anypb.Any {
		return pack(t, &listenerv3.Listener{Name: "l", StatPrefix: stat})
	}
	at0 := Resource{Name: "l", Version: "1", Updated: dumpTime, Message: listener("served")}
	warming, draining, refused := at0, at0, at0
	warming.Version, warming.Warming, warming.Message = "2", true, listener("next")
	draining.Draining, draining.Message = true, listener("gone")
	bad := &Failure{Details: "filter_chains[0]: no", Version: "3", At: dumpTime, Message: pack(t, &clusterv3.Cluster{Name: "c", TransportSocket: secretTLS(t)})}
	refused = Resource{Name: "never", Failure: bad}
	f.dump = Dump{
		Listeners: []Resource{at0, warming, draining, refused},
		Clusters:  []Resource{{Name: "c", Version: "1", Message: pack(t, &clusterv3.Cluster{Name: "c"}), Failure: bad}, {Name: "new", Failure: bad}},
		Routes:    []Resource{{Name: "80", Version: "1", Message: pack(t, &routev3.RouteConfiguration{Name: "80"}), Failure: bad}, {Name: "81", Failure: bad}},
	}
	_, body := ask(t, h, "GET", "/config_dump")
	if strings.Contains(body, password) {
		t.Error("what was refused shows its secrets")
	}
	c := configs(t, body)
	var doc any = map[string]any{"l": c["ListenersConfigDump"]["dynamic_listeners"], "c": c["ClustersConfigDump"], "r": c["RoutesConfigDump"]}
	for _, e := range []struct {
		want any
		path []any
	}{
		{"served", []any{"l", 0, "active_state", "listener", "stat_prefix"}},
		{"next", []any{"l", 0, "warming_state", "listener", "stat_prefix"}},
		{"2", []any{"l", 0, "warming_state", "version_info"}},
		{"gone", []any{"l", 0, "draining_state", "listener", "stat_prefix"}},
		{nil, []any{"l", 0, "error_state"}},
		{"never", []any{"l", 1, "name"}},
		{nil, []any{"l", 1, "active_state"}},
		{"filter_chains[0]: no", []any{"l", 1, "error_state", "details"}},
		{"c", []any{"c", "dynamic_active_clusters", 0, "cluster", "name"}},
		{"3", []any{"c", "dynamic_active_clusters", 0, "error_state", "version_info"}},
		{nil, []any{"c", "dynamic_warming_clusters", 0, "cluster"}},
		{"filter_chains[0]: no", []any{"c", "dynamic_warming_clusters", 0, "error_state", "details"}},
		{"filter_chains[0]: no", []any{"r", "dynamic_route_configs", 0, "error_state", "details"}},
	} {
		if got := at(t, doc, e.path...); got != e.want {
			t.Errorf("%v = %v, want %v", e.path, got, e.want)
		}
	}
	for _, list := range []struct {
		of   any
		want int
	}{{doc.(map[string]any)["l"], 2}, {c["RoutesConfigDump"]["dynamic_route_configs"], 1}} {
		if got := len(list.of.([]any)); got != list.want {
			t.Errorf("%d elements, want %d", got, list.want)
		}
	}
}

// TestDumpHasNoSecrets: neither in the middle of a listener nor in a secret,
// under no query, and the resource itself keeps them.
func TestDumpHasNoSecrets(t *testing.T) {
	f, h := newFake()
	f.dump = testDump(t)
	unknown := Resource{Name: "odd", Message: &anypb.Any{TypeUrl: "type.googleapis.com/some.unknown.Secret", Value: []byte(password)}}
	broken := Resource{Name: "broken", Message: &anypb.Any{TypeUrl: f.dump.Secrets[0].Message.TypeUrl, Value: []byte(password)}}
	f.dump.Secrets = append(f.dump.Secrets, unknown, broken)
	encoded := "aHVudGVyMg" // of the password
	for _, query := range []string{"", "?include_eds", "?resource=dynamic_active_clusters", "?resource=dynamic_active_secrets",
		"?resource=dynamic_active_secrets&mask=secret", "?mask=dynamic_active_secrets", "?resource=static_clusters&mask=cluster.transport_socket"} {
		_, body := ask(t, h, "GET", "/config_dump"+query)
		if strings.Contains(body, password) || strings.Contains(body, encoded) {
			t.Errorf("%q shows the secret:\n%s", query, body)
		}
		if !strings.Contains(body, redacted) {
			t.Errorf("%q shows no sign of a secret:\n%s", query, body)
		}
		if query != "?resource=dynamic_active_secrets&mask=secret" && strings.Contains(query, "luster") && !strings.Contains(body, `"public"`) {
			t.Errorf("%q hides the certificate:\n%s", query, body)
		}
	}
	if again := testDump(t); !proto.Equal(again.Clusters[0].Message, f.dump.Clusters[0].Message) {
		t.Error("showing a resource changed it")
	}
}

// TestDumpOfExtensions: a part for filters that come by themselves is there when there are
// any, with what was refused of them.
func TestDumpOfExtensions(t *testing.T) {
	f, h := newFake()
	f.dump = testDump(t)
	x := Resource{Name: "x", Version: "7", Updated: dumpTime, Message: pack(t, &corev3.TypedExtensionConfig{Name: "x"}),
		Failure: &Failure{Details: "typed_config: no", Version: "8", At: dumpTime}}
	f.dump.Extensions = []Resource{x}
	_, body := ask(t, h, "GET", "/config_dump")
	got := configs(t, body)["EcdsConfigDump"]
	if name := at(t, got, "ecds_filters", 0, "ecds_filter", "name"); name != "x" {
		t.Errorf("the filter is %v", name)
	}
	if v, why := at(t, got, "ecds_filters", 0, "version_info"), at(t, got, "ecds_filters", 0, "error_state", "details"); v != "7" || why != "typed_config: no" {
		t.Errorf("version %v, refused because %v", v, why)
	}
	if res, body := ask(t, h, "GET", "/config_dump?resource=ecds_filters"); res.StatusCode != 200 || !strings.Contains(body, `"x"`) {
		t.Errorf("by resource: %d %s", res.StatusCode, body)
	}
}

func TestDumpByResourceAndMask(t *testing.T) {
	f, h := newFake()
	f.dump = testDump(t)
	const prefix = `"type.googleapis.com/envoy.`
	for _, c := range []struct {
		query string
		want  string // compact JSON
	}{
		{"?resource=dynamic_active_clusters&mask=cluster.name",
			`{"configs":[{"@type":` + prefix + `admin.v3.ClustersConfigDump.DynamicCluster","cluster":{"@type":` + prefix + `config.cluster.v3.Cluster","name":"a"}},` +
				`{"@type":` + prefix + `admin.v3.ClustersConfigDump.DynamicCluster","cluster":{"@type":` + prefix + `config.cluster.v3.Cluster","name":"b"}}]}`},
		{"?resource=dynamic_active_clusters&mask=version_info,last_updated&name_regex=^b$",
			`{"configs":[{"@type":` + prefix + `admin.v3.ClustersConfigDump.DynamicCluster","version_info":"7","last_updated":"2026-01-02T03:04:05.678Z"}]}`},
		{"?resource=static_listeners", `{"configs":[]}`},
		{"?mask=bootstrap.node.id", `{"configs":[{"@type":` + prefix + `admin.v3.BootstrapConfigDump","bootstrap":{"node":{"id":"n1"}}}]}`},
		{"?mask=dynamic_route_configs", `{"configs":[{"@type":` + prefix + `admin.v3.RoutesConfigDump","dynamic_route_configs":[{"version_info":"7",` +
			`"route_config":{"@type":` + prefix + `config.route.v3.RouteConfiguration","name":"80"},"last_updated":"2026-01-02T03:04:05.678Z"}]}]}`},
		{"?mask=dynamic_listeners.name", `{"configs":[{"@type":` + prefix + `admin.v3.ListenersConfigDump","dynamic_listeners":[{"name":"l1"},{"name":"l2"}]}]}`},
	} {
		res, body := ask(t, h, "GET", "/config_dump"+c.query)
		var got, want any
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 200 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %d\n%v\nwant\n%v", c.query, res.StatusCode, got, want)
		}
	}
	for query, want := range map[string]string{
		"?resource=foo":                      "404 foo not found in config dump",
		"?resource=ecds_filters":             "404 ecds_filters not found in config dump",
		"?resource=dynamic_endpoint_configs": "404 dynamic_endpoint_configs not found in config dump",
		"?resource=bootstrap":                "400 bootstrap is not a list; use ?mask=bootstrap to get only this field",
		"?mask=foo":                          "400 mask: no part of the dump has a field \"foo\"",
		"?mask=bootstrap.foo":                "400 mask: envoy.config.bootstrap.v3.Bootstrap has no field \"foo\"",
		"?mask=bootstrap.node.id.x":          "400 mask: envoy.config.core.v3.Node.id has no fields",
		"?resource=static_clusters&mask=foo": "400 mask: envoy.admin.v3.ClustersConfigDump.StaticCluster has no field \"foo\"",
		"?name_regex=[":                      "400 invalid regular expression: error parsing regexp: missing closing ]: `[`",
		"?resource=static_clusters&name_regex=" + strings.Repeat("a", 2000): "400 the regular expression has 2000 bytes, more than 1024",
	} {
		res, body := ask(t, h, "GET", "/config_dump"+query)
		if got := fmt.Sprint(res.StatusCode, " ", strings.TrimSpace(body)); got != want {
			t.Errorf("%.50s: %s, want %s", query, got, want)
		}
	}
}

// TestDumpOfBrokenResources: what can't be decoded doesn't spoil the rest.
func TestDumpOfBrokenResources(t *testing.T) {
	f, h := newFake()
	url := pack(t, &clusterv3.Cluster{}).TypeUrl
	f.dump = Dump{Clusters: []Resource{
		{Name: "broken", Message: &anypb.Any{TypeUrl: url, Value: []byte("\xff")}},
		{Name: "empty", Message: &anypb.Any{}},
		{Name: "no type", Message: &anypb.Any{Value: []byte("x")}},
		{Name: "none"},
		{Name: "odd time", Message: pack(t, &clusterv3.Cluster{Name: "odd", ConnectTimeout: &durationpb.Duration{Seconds: 1 << 62}})},
		{Name: "good", Message: pack(t, &clusterv3.Cluster{Name: "good"})},
	}}
	broken := Resource{Message: &anypb.Any{TypeUrl: "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap", Value: []byte("\xff")}}
	f.dump.Bootstrap = &broken
	_, body := ask(t, h, "GET", "/config_dump")
	c := configs(t, body)
	list := at(t, c["ClustersConfigDump"], "dynamic_active_clusters")
	if got := at(t, list, 0, "cluster", "@type"); got != url+".undecodable" {
		t.Errorf("a broken resource has the type %v", got)
	}
	if got := at(t, list, 4, "cluster", "name"); got != "good" {
		t.Errorf("the last resource is %v", got)
	}
	if got := len(list.([]any)); got != 5 {
		t.Errorf("%d resources, want 5:\n%s", got, body)
	}
	if got := at(t, c["BootstrapConfigDump"], "bootstrap", "@type"); got != broken.Message.TypeUrl+".undecodable" {
		t.Errorf("a broken bootstrap has the type %v", got)
	}
}

func TestDeepNesting(t *testing.T) {
	a := pack(t, &clusterv3.Cluster{Name: "innermost"})
	for range 3 * maxNesting {
		a = pack(t, a)
	}
	f, h := newFake()
	f.dump = Dump{Clusters: []Resource{{Name: "deep", Message: a}}}
	res, body := ask(t, h, "GET", "/config_dump")
	if res.StatusCode != 200 || !json.Valid([]byte(body)) || strings.Contains(body, "innermost") {
		t.Errorf("%d %.200s", res.StatusCode, body)
	}
}

// BenchmarkConfigDump dumps 1,000 clusters; the memory per dump is garbage of
// one resource after another.
func BenchmarkConfigDump(b *testing.B) {
	f, h := newFake()
	one := testDump(b).Clusters[1]
	for range 1000 {
		f.dump.Clusters = append(f.dump.Clusters, one)
	}
	b.ReportAllocs()
	for b.Loop() {
		r := nethttpRequest("/config_dump")
		h.ServeHTTP(&discard{}, r)
	}
}
