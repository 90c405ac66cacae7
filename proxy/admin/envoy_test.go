// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"                     // types in the dump
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3" // as above
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"pillion/proxy/admin"
	"pillion/proxy/stats"
	"pillion/test/need"
	"pillion/test/rig"
)

// envoy asks the admin port of a real Envoy, or our handler.
type envoy struct{ base string }

func (e envoy) ask(t *testing.T, method, target string) (int, string) {
	t.Helper()
	req, err := nethttp.NewRequest(method, e.base+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := nethttp.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func startEnvoy(t *testing.T) envoy {
	t.Helper()
	binary := need.Envoy(t)
	address := rig.FreeAddr(t)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "envoy.yaml")
	config := strings.NewReplacer("ADMIN", fmt.Sprintf("{address: %s, port_value: %s}", host, port),
		"LISTENER", strings.Split(rig.FreeAddr(t), ":")[1]).Replace(envoyConfig)
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	rig.StartProcess(t, exec.Command(binary, "-c", path, "--concurrency", "1", "-l", "off", "--use-dynamic-base-id"))
	e := envoy{"http://" + address}
	rig.Until(t, "Envoy is ready", func() error {
		_, err := rig.Fetch("GET", e.base+"/ready")
		return err
	})
	return e
}

const envoyConfig = `
node: {id: n1, cluster: c1}
admin: {address: {socket_address: ADMIN}}
static_resources:
  listeners:
  - name: l1
    address: {socket_address: {address: 127.0.0.1, port_value: LISTENER}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            name: r1
            virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: one}}]}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: two
    type: STATIC
    alt_stat_name: two;
  - name: one
    type: STATIC
    connect_timeout: 1s
    outlier_detection: {}
    circuit_breakers: {thresholds: [{max_connections: 5, max_pending_requests: 6, max_requests: 4294967295, max_retries: 7}]}
    load_assignment:
      cluster_name: one
      endpoints:
      - priority: 1
        locality: {region: r, zone: z, sub_zone: s}
        lb_endpoints:
        - {health_status: UNHEALTHY, endpoint: {hostname: hh, address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}
        - {health_status: DRAINING, load_balancing_weight: 5, endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 2}}}}
        - {health_status: TIMEOUT, endpoint: {address: {socket_address: {address: "::1", port_value: 3}}}}
        - {health_status: DEGRADED, endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 4}}}}
      - lb_endpoints:
        - {endpoint: {address: {pipe: {path: /nowhere.sock}}}}
`

// twin is our handler over the state that envoyConfig describes.
type twin struct{ dump admin.Dump }

func (twin) State() stats.State       { return stats.StateLive }
func (twin) WaitingFor() []string     { return nil }
func (twin) Drain(admin.DrainOptions) {}
func (twin) SetHealthy(bool)          {}
func (twin) Quit()                    {}
func (w twin) ConfigDump() admin.Dump { return w.dump }

func (twin) Clusters() []admin.ClusterStatus {
	standard := admin.Limits{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3}
	remote := func(address, hostname string, health corev3.HealthStatus, weight uint32) admin.HostStatus {
		return admin.HostStatus{Address: address, Hostname: hostname, Health: health, Weight: weight, Priority: 1, Region: "r", Zone: "z", SubZone: "s"}
	}
	return []admin.ClusterStatus{
		{Name: "one", OutlierDetection: true, High: &standard,
			Default: admin.Limits{MaxConnections: 5, MaxPendingRequests: 6, MaxRequests: 4294967295, MaxRetries: 7},
			Hosts: []admin.HostStatus{
				{Address: "/nowhere.sock", Weight: 1},
				remote("127.0.0.1:1", "hh", corev3.HealthStatus_UNHEALTHY, 1),
				remote("127.0.0.1:2", "", corev3.HealthStatus_DRAINING, 5),
				remote("[::1]:3", "", corev3.HealthStatus_TIMEOUT, 1),
				remote("127.0.0.1:4", "", corev3.HealthStatus_DEGRADED, 1),
			}},
		{Name: "two", ObservabilityName: "two;", Default: standard, High: &standard},
	}
}

func (w twin) Listeners() []admin.ListenerStatus {
	var l listenerv3.Listener
	if err := w.dump.Listeners[0].Message.UnmarshalTo(&l); err != nil {
		return nil
	}
	a := l.GetAddress().GetSocketAddress()
	return []admin.ListenerStatus{{Name: l.GetName(),
		Addresses: []string{net.JoinHostPort(a.GetAddress(), strconv.Itoa(int(a.GetPortValue())))}}}
}

// newTwin gives our handler the resources that Envoy says it has.
func newTwin(t *testing.T, e envoy) envoy {
	t.Helper()
	_, body := e.ask(t, "GET", "/config_dump")
	var d adminv3.ConfigDump
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(body), &d); err != nil {
		t.Fatal(err)
	}
	var w twin
	resource := func(name string, m *anypb.Any, at *timestamppb.Timestamp) admin.Resource {
		return admin.Resource{Name: name, Static: true, Message: m, Updated: at.AsTime()}
	}
	unpack := func(a *anypb.Any, m proto.Message) {
		if err := a.UnmarshalTo(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range d.Configs {
		part, err := c.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		switch p := part.(type) {
		case *adminv3.BootstrapConfigDump:
			p.Bootstrap.Node.Extensions = nil
			a, err := anypb.New(p.Bootstrap)
			if err != nil {
				t.Fatal(err)
			}
			r := resource("", a, p.LastUpdated)
			w.dump.Bootstrap = &r
		case *adminv3.ClustersConfigDump:
			for _, s := range p.StaticClusters {
				var m clusterv3.Cluster
				unpack(s.Cluster, &m)
				w.dump.Clusters = append(w.dump.Clusters, resource(m.Name, s.Cluster, s.LastUpdated))
			}
		case *adminv3.ListenersConfigDump:
			for _, s := range p.StaticListeners {
				var m listenerv3.Listener
				unpack(s.Listener, &m)
				w.dump.Listeners = append(w.dump.Listeners, resource(m.Name, s.Listener, s.LastUpdated))
			}
		case *adminv3.RoutesConfigDump:
			for _, s := range p.StaticRouteConfigs {
				var m routev3.RouteConfiguration
				unpack(s.RouteConfig, &m)
				w.dump.Routes = append(w.dump.Routes, resource(m.Name, s.RouteConfig, s.LastUpdated))
			}
		}
	}
	s := httptest.NewServer(admin.NewHandler(admin.Options{
		Logger: slog.New(slog.DiscardHandler), Stats: stats.NewRegistry(), Ready: w, Clusters: w, Listeners: w, Config: w, Lifecycle: w,
		Loggers: admin.NewLevels(admin.LevelOff), Info: admin.Info{Version: "1", Started: time.Now(), Node: func() *corev3.Node { return &corev3.Node{Id: "n1"} }, Options: &adminv3.CommandLineOptions{
			DrainTime: &durationpb.Duration{}, FileFlushInterval: &durationpb.Duration{}, ParentShutdownTime: &durationpb.Duration{}}},
	}))
	t.Cleanup(s.Close)
	return envoy{s.URL}
}

// TestAnswersAreEnvoys compares our answers with those of a real Envoy in the
// same state: the same status, and the same text or JSON where the shape is
// what tools read.
func TestAnswersAreEnvoys(t *testing.T) {
	theirs := startEnvoy(t)
	ours := newTwin(t, theirs)
	for _, c := range []struct {
		method, target string
		body           bool
	}{
		{"GET", "/clusters", true},
		{"GET", "/clusters?filter=w", true},
		{"GET", "/clusters?format=json", true},
		{"GET", "/clusters?format=json&filter=one", true},
		{"GET", "/clusters?filter=%5B", false},
		{"GET", "/listeners", true},
		{"GET", "/listeners?format=json", true},
		{"GET", "/config_dump", true},
		{"GET", "/config_dump?include_eds=true", true},
		{"GET", "/config_dump?resource=static_clusters", true},
		{"GET", "/config_dump?resource=static_clusters&mask=cluster.name", true},
		{"GET", "/config_dump?resource=static_clusters&mask=cluster.name,last_updated&name_regex=two", true},
		{"GET", "/config_dump?resource=static_route_configs&mask=route_config.virtual_hosts", true},
		{"GET", "/config_dump?resource=static_clusters&name_regex=none", true},
		{"GET", "/config_dump?resource=dynamic_active_clusters", true},
		{"GET", "/config_dump?mask=bootstrap.node.id,bootstrap.static_resources", true},
		{"GET", "/config_dump?mask=static_clusters", true},
		{"GET", "/config_dump?resource=foo", false},
		{"GET", "/config_dump?resource=bootstrap", false},
		{"GET", "/config_dump?mask=foo", false},
		{"GET", "/config_dump?resource=static_clusters&mask=foo", false},
		{"GET", "/config_dump?name_regex=%5B", false},
		{"GET", "/ready", true},
		{"GET", "/ready?verbose", true},
		{"GET", "/certs", true},
		{"GET", "/memory", false},
		{"GET", "/server_info", false},
		{"GET", "/help", false},
		{"GET", "/", false},
		{"GET", "/nope", false},
		{"GET", "/stats/", false},
		{"GET", "/stats?filter=nosuchname", true},
		{"GET", "/stats?format=json&filter=nosuchname", true},
		{"GET", "/stats?format=nope", false},
		{"GET", "/stats?type=nope", false},
		{"GET", "/stats?histogram_buckets=nope", false},
		{"GET", "/stats?filter=%5B", false},
		{"GET", "/stats/prometheus?filter=nosuchname", true},
		{"GET", "/stats/prometheus?filter=%5B", false},
		{"GET", "/quitquitquit", false},
		{"PUT", "/quitquitquit", false},
		{"GET", "/logging", false},
		{"POST", "/logging", true},
		{"POST", "/logging?http=debug", true},
		{"POST", "/logging?level=info", true},
		{"POST", "/logging?level=nope", false},
		{"POST", "/logging?nope=info", false},
		{"POST", "/logging?paths=http:error,config:trace,", true},
		{"POST", "/logging?level=", true},
		{"POST", "/logging?paths=", true},
		{"POST", "/logging?paths=http", false},
		{"POST", "/logging?level=info&http=info", false},
		{"GET", "/drain_listeners", false},
		{"GET", "/reset_counters", false},
		{"POST", "/reset_counters", true},
		{"GET", "/healthcheck/fail", false},
		{"POST", "/healthcheck/ok", true},
		{"POST", "/drain_listeners?inboundonly&graceful&skip_exit", true},
	} {
		theirStatus, their := theirs.ask(t, c.method, c.target)
		ourStatus, our := ours.ask(t, c.method, c.target)
		if ourStatus != theirStatus {
			t.Errorf("%s %s: %d, Envoy answers %d: %.200s", c.method, c.target, ourStatus, theirStatus, their)
		}
		if c.body && !same(our, their) {
			t.Errorf("%s %s:\n%s\nEnvoy answers\n%s", c.method, c.target, our, their)
		}
	}
}

// TestServerInfoIsEnvoys: tools find each field of Envoy's /server_info.
func TestServerInfoIsEnvoys(t *testing.T) {
	theirs := startEnvoy(t)
	ours := newTwin(t, theirs)
	fields := func(e envoy) (all []string) {
		_, text := e.ask(t, "GET", "/server_info")
		var top map[string]any
		if err := json.Unmarshal([]byte(text), &top); err != nil {
			t.Fatal(err)
		}
		for name, v := range top {
			all = append(all, name)
			if name != "command_line_options" {
				continue
			}
			for name := range v.(map[string]any) {
				all = append(all, "command_line_options."+name)
			}
		}
		slices.Sort(all)
		return all
	}
	if want, got := fields(theirs), fields(ours); !slices.Equal(got, want) {
		t.Errorf("our fields are\n%q, Envoy's\n%q", got, want)
	}
}

// same compares text by its lines and JSON by its content, but for what only
// Envoy has, and for the order of clusters, which Envoy leaves to chance.
func same(our, their string) bool {
	var a, b any
	if json.Unmarshal([]byte(our), &a) != nil || json.Unmarshal([]byte(their), &b) != nil {
		return slices.Equal(slices.Sorted(strings.Lines(our)), slices.Sorted(strings.Lines(their)))
	}
	return reflect.DeepEqual(prune(a), prune(b))
}

// prune takes out of a dump Envoy's list of extensions, the part for scoped
// routes, which Istio doesn't use, and the empty list that Envoy leaves out.
func prune(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	if list, ok := m["cluster_statuses"].([]any); ok {
		slices.SortFunc(list, func(a, b any) int {
			return cmp.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
		})
		return m
	}
	list, ok := m["configs"].([]any)
	if !ok {
		return v
	}
	var kept []any
	for _, c := range list {
		part := c.(map[string]any)
		if strings.HasSuffix(part["@type"].(string), "ScopedRoutesConfigDump") {
			continue
		}
		if b, ok := part["bootstrap"].(map[string]any); ok {
			if node, ok := b["node"].(map[string]any); ok {
				delete(node, "extensions")
			}
		}
		if assignments, ok := part["static_endpoint_configs"].([]any); ok {
			pruneAssignments(assignments)
		}
		kept = append(kept, part)
	}
	if kept == nil {
		return map[string]any{}
	}
	return map[string]any{"configs": kept}
}

// pruneAssignments sorts them, and takes out the weight 0 that Envoy shows of
// localities which have none.
func pruneAssignments(all []any) {
	config := func(a any) map[string]any { return a.(map[string]any)["endpoint_config"].(map[string]any) }
	slices.SortFunc(all, func(a, b any) int {
		return cmp.Compare(config(a)["cluster_name"].(string), config(b)["cluster_name"].(string))
	})
	for _, a := range all {
		localities, _ := config(a)["endpoints"].([]any)
		for _, l := range localities {
			if l := l.(map[string]any); l["load_balancing_weight"] == 0.0 {
				delete(l, "load_balancing_weight")
			}
		}
	}
}
