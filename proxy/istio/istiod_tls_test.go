// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
)

// capturedTLS is what a real istiod sent of mutual TLS and of gateways for
// testdata/istiod/mesh.yaml and gateway.yaml, where workloads have the label
// security.istio.io/tlsMode.
type capturedTLS struct {
	SocketMatches map[string]any            // of clusters, by name
	Endpoints     map[string]map[string]any // load assignments by name
	Chains        map[string]map[string]any // filter chains by their first server name
	SNIClusters   map[string]map[string]any `json:"sniClusters"`
	SNIEndpoints  map[string]map[string]any `json:"sniEndpoints"`
}

func loadCapturedTLS(t *testing.T) (*capturedTLS, *Resources) {
	t.Helper()
	want := &capturedTLS{}
	text, err := os.ReadFile("testdata/istiod/tls.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, want); err != nil {
		t.Fatal(err)
	}
	mesh, err := os.ReadFile("testdata/istiod/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := os.ReadFile("testdata/istiod/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	cert, key := ca.leaf("", "bookinfo.example.com")
	yaml := strings.ReplaceAll(string(mesh), "labels: {app: reviews, version", "labels: {security.istio.io/tlsMode: istio, app: reviews, version")
	yaml = strings.ReplaceAll(yaml, "labels: {app: ratings, version", "labels: {security.istio.io/tlsMode: istio, app: ratings, version")
	yaml += string(gateway) + secretYAML("default", "bookinfo-cert", "tls.crt", cert, "tls.key", key) +
		secretYAML("default", "mutual-cert", "tls.crt", cert, "tls.key", key, "ca.crt", ca.pem)
	r, problems := Translate(load(t, yaml), Options{HTTPAddr: "127.0.0.1:15080", ClusterID: "lab", Identity: true})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	return want, r
}

// TestLikeIstiodTLS compares contexts, matches and clusters with istiod's, field by field.
func TestLikeIstiodTLS(t *testing.T) {
	want, r := loadCapturedTLS(t)
	for name, matches := range want.SocketMatches {
		c := r.clusterOf(name)
		if c == nil {
			t.Errorf("no cluster %s", name)
			continue
		}
		got := generic(t, c).(map[string]any)
		same(t, "transport_socket_matches of "+name, matches, got["transportSocketMatches"])
		if c.TransportSocket != nil {
			t.Errorf("%s has a transport_socket besides", name)
		}
	}
	assignments := make(map[string]any)
	for _, e := range r.Endpoints {
		assignments[e.ClusterName] = generic(t, e)
	}
	for name, e := range want.Endpoints {
		same(t, "endpoints of "+name, e, assignments[name])
	}
	for name, e := range want.SNIEndpoints {
		same(t, "endpoints of "+name, e, assignments[name])
	}
	for name, c := range want.SNIClusters {
		if got := r.clusterOf(name); got == nil {
			t.Errorf("no cluster %s", name)
		} else {
			same(t, name, c, generic(t, got))
		}
	}
	if len(want.SocketMatches) < 6 || len(want.SNIClusters) < 3 || len(want.Chains) < 9 {
		t.Error("nothing was compared")
	}
}

// TestLikeIstiodGateway does the same for a gateway's filter chains.
func TestLikeIstiodGateway(t *testing.T) {
	want, r := loadCapturedTLS(t)
	compared := 0
	for _, l := range r.Listeners {
		for _, chain := range l.FilterChains {
			names := chain.GetFilterChainMatch().GetServerNames()
			if len(names) == 0 || want.Chains[names[0]] == nil {
				continue
			}
			compared++
			same(t, "the chain of "+names[0], want.Chains[names[0]], tlsSummary(t, chain))
			if l.ListenerFilters[0].Name != filterTLSInspector || l.ListenerFiltersTimeout != nil || l.ContinueOnListenerFiltersTimeout {
				t.Errorf("%s doesn't look at connections as istiod has it: %v", l.Name, l)
			}
		}
	}
	if compared != len(want.Chains) {
		t.Errorf("%d of %d chains were there", compared, len(want.Chains))
	}
}

// tlsSummary is a chain with the names of its filters instead of the filters.
func tlsSummary(t *testing.T, chain *listenerv3.FilterChain) any {
	t.Helper()
	var filters []any
	own := proto.Clone(chain).(*listenerv3.FilterChain)
	own.Filters = nil
	out := generic(t, own).(map[string]any)
	for _, f := range chain.Filters {
		filters = append(filters, f.Name)
		switch f.Name {
		case filterHCM:
			m := &hcmv3.HttpConnectionManager{}
			if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
				t.Fatal(err)
			}
			out["routeConfigName"] = m.GetRds().RouteConfigName
		case filterTCPProxy:
			p := &tcpv3.TcpProxy{}
			if err := f.GetTypedConfig().UnmarshalTo(p); err != nil {
				t.Fatal(err)
			}
			if p.GetCluster() != "" {
				out["cluster"] = p.GetCluster()
			}
		}
	}
	out["filters"] = filters
	return out
}
