// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	statsapi "istio.io/api/envoy/extensions/stats"

	"pillion/proxy/filter/peermeta"
	"pillion/proxy/http"
)

// listenersOf are the listeners that istiod sent to a node.
func listenersOf(t *testing.T, node string) (out []*listenerv3.Listener) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "istiod", node+"-lds.pb"))
	if err != nil {
		t.Fatal(err)
	}
	resp := &discoveryv3.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(raw, resp); err != nil {
		t.Fatal(err)
	}
	for _, res := range resp.GetResources() {
		l := &listenerv3.Listener{}
		if err := res.GetResource().UnmarshalTo(l); err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// TestFiltersOfIstiod: every filter that a production istiod configures is built, and
// asks for nothing in vain.
func TestFiltersOfIstiod(t *testing.T) {
	for node, side := range map[string]http.Direction{"full-productpage-v1": http.Inbound, "full-reviews-v1": http.Inbound, "full-ingressgateway": http.Outbound} {
		c := NewCompiler(Env{NodeID: "sidecar~10.0.0.1~a.b~c"})
		warn := func(w string) { t.Errorf("%s: warning: %s", node, w) }
		built := map[string]int{}
		strange := 0 // configurations of istio.stats with fields that aren't known
		for _, l := range listenersOf(t, node) {
			list := l.GetFilterChains()
			if d := l.GetDefaultFilterChain(); d != nil {
				list = append(list, d)
			}
			for _, fc := range list {
				for i, f := range fc.GetFilters() {
					typ, err := messageType(f.GetTypedConfig()), error(nil)
					built[typ]++
					switch typ {
					case istioStatsType:
						cfg := &statsapi.PluginConfig{}
						_ = f.GetTypedConfig().UnmarshalTo(cfg)
						strange += min(1, len(cfg.ProtoReflect().GetUnknown()))
						_, err = c.istioStats(f.GetTypedConfig())
					case metadataExchangeType:
						var x *peerExchange
						if x, err = compilePeerExchange(f.GetTypedConfig()); err == nil && x.protocol != "istio-peer-exchange" {
							t.Errorf("%s: protocol %q", node, x.protocol)
						}
					case hcmType:
						buildManager(t, c, l, f.GetTypedConfig(), built, warn)
					}
					if err != nil {
						t.Errorf("%s: listener %s, chain %s, filters[%d]: %v", node, l.GetName(), fc.GetName(), i, err)
					}
				}
			}
		}
		want := []string{istioStatsType, hcmType, tcpProxyType, alpnType, peerMetadataType, "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"}
		if side == http.Inbound {
			want = append(want, metadataExchangeType)
		}
		for _, typ := range want {
			if built[typ] == 0 && !(typ == tcpProxyType && node == "full-ingressgateway") {
				t.Errorf("%s: no %s among %v", node, typ, built)
			}
		}
		if strange > 0 {
			t.Errorf("%s: %d configurations of istio.stats have fields that aren't known", node, strange)
		}
		c.Close()
	}
}

// buildManager builds the chain of a connection manager, and checks which way its
// exchange of metadata goes.
func buildManager(t *testing.T, c *Compiler, l *listenerv3.Listener, a *anypb.Any, built map[string]int, warn func(string)) {
	t.Helper()
	m := &hcmv3.HttpConnectionManager{}
	if err := a.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	for _, f := range m.GetHttpFilters() {
		built[messageType(f.GetTypedConfig())]++
	}
	ch, err := c.newChains(&Snapshot{}, m, direction(l.GetTrafficDirection()), warn)
	if err != nil {
		t.Errorf("listener %s: %v", l.GetName(), err)
		return
	}
	chain, err := ch.build()
	if err != nil {
		t.Errorf("listener %s: %v", l.GetName(), err)
		return
	}
	at := slices.IndexFunc(m.GetHttpFilters(), func(f *hcmv3.HttpFilter) bool { return f.GetName() == "istio.metadata_exchange" })
	if at < 0 {
		return
	}
	if _, ok := chain.Request[0].(*peermeta.Filter); !ok {
		t.Errorf("listener %s: the exchange of metadata isn't what a request meets first", l.GetName())
	}
	ex := &http.Exchange{}
	chain.Request[0].OnRequest(ex)
	_, tells := ex.Req.Fields.Get(http.HeaderXEnvoyPeerMetadata)
	if inbound := l.GetTrafficDirection().String() == "INBOUND"; tells == inbound {
		t.Errorf("listener %s: tells the host %v", l.GetName(), tells)
	}
}

func TestDescribeNode(t *testing.T) {
	for _, c := range []struct {
		metadata string
		want     http.Peer
	}{
		{`{NAME: web-1-x, NAMESPACE: shop, WORKLOAD_NAME: web-1, OWNER: o, CLUSTER_ID: c, INSTANCE_IPS: "10.0.0.1",
		  LABELS: {app: web, version: v1, service.istio.io/canonical-name: canon, service.istio.io/canonical-revision: r}}`,
			http.Peer{Workload: "web-1", Namespace: "shop", ClusterID: "c", App: "web", Version: "v1", CanonicalService: "canon", CanonicalRevision: "r"}},
		{`{WORKLOAD_NAME: web-1, LABELS: {app: web}}`, http.Peer{Workload: "web-1", App: "web", CanonicalService: "web", CanonicalRevision: "latest"}},
		{`{WORKLOAD_NAME: web-1}`, http.Peer{Workload: "web-1", CanonicalService: "web-1", CanonicalRevision: "latest"}},
	} {
		m := &structpb.Struct{}
		fromYAML(t, c.metadata, m)
		var env Env
		env.DescribeNode("id", m, "eu", "eu-1")
		got := env.Own
		if d := got.Detail; d == nil || d.Region != "eu" || d.Zone != "eu-1" {
			t.Errorf("%s: %+v", c.metadata, d)
		}
		if got.Detail = nil; got != c.want || env.NodeID != "id" || env.Labels["app"] != c.want.App {
			t.Errorf("%s: %+v, %v", c.metadata, got, env.Labels)
		}
	}
}

func TestPeerMetadataConfig(t *testing.T) {
	config := func(value string) *anypb.Any {
		a := &anypb.Any{}
		fromYAML(t, `{"@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/io.istio.http.peer_metadata.Config, value: `+value+`}`, a)
		return a
	}
	for _, c := range []struct {
		value    string
		acts     bool
		meshOnly bool
		warnings []string
	}{
		{`{}`, false, false, nil},
		{`{downstream_discovery: [{workload_discovery: {}}]}`, false, false, nil},
		{`{upstream_propagation: [{istio_headers: {}}], additional_labels: [team]}`, true, false, nil},
		{`{upstream_propagation: [{istio_headers: {skip_external_clusters: true}}]}`, true, true, nil},
		{`{upstream_propagation: [{istio_headers: {}}], skip_external_clusters: true}`, true, true, nil},
		{`{downstream_discovery: [{baggage: {}}, {istio_headers: {}}], nothing_such: 1}`, true, false,
			[]string{"downstream_discovery[0].baggage: is not supported", "nothing_such: is not known"}},
	} {
		var warnings []string
		comp := NewCompiler(Env{NodeID: "id"})
		f, err := buildPeerMetadata(&chains{c: comp, warn: func(w string) { warnings = append(warnings, w) }}, config(c.value), nil)
		if err != nil || (f != nil) != c.acts {
			t.Errorf("%s: %v %v", c.value, f, err)
			continue
		}
		if p, ok := f.(*peermeta.Filter); ok {
			ex := &http.Exchange{}
			p.OnRequest(ex)
			if ex.MeshOnly != c.meshOnly {
				t.Errorf("%s: mesh only %v", c.value, ex.MeshOnly)
			}
		}
		if len(warnings) != len(c.warnings) {
			t.Errorf("%s: warnings %q", c.value, warnings)
			continue
		}
		for i := range warnings {
			if !strings.Contains(warnings[i], c.warnings[i]) {
				t.Errorf("%s: warning %q, want %q", c.value, warnings[i], c.warnings[i])
			}
		}
		comp.Close()
	}
}
