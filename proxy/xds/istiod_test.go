// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/stats"
	"pillion/proxy/tls/controlplane"
	"pillion/proxy/xds"
	"pillion/test/lab"
	"pillion/test/rig"
)

const (
	prefix    = "type.googleapis.com/"
	clusters  = prefix + "envoy.config.cluster.v3.Cluster"
	listeners = prefix + "envoy.config.listener.v3.Listener"
	endpoints = prefix + "envoy.config.endpoint.v3.ClusterLoadAssignment"
	routes    = prefix + "envoy.config.route.v3.RouteConfiguration"
	names     = prefix + "istio.networking.nds.v1.NameTable"
)

// holder is a Sink that holds what it gets and wants what that names, as a
// proxy does.
type holder struct {
	client *xds.Client // set before Run

	mu     sync.Mutex
	held   map[string]map[string]string // type → name → version; guarded by mu
	follow map[string]set               // by the name of a cluster or listener: what it names; guarded by mu
	refuse string                       // a cluster to refuse; guarded by mu
}

type set map[string]struct{}

func (h *holder) Have(typeURL string) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.held[typeURL])
}

func (h *holder) Apply(u *xds.Update) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held[u.TypeURL] == nil || u.Full {
		h.held[u.TypeURL] = map[string]string{}
	}
	for _, r := range u.Resources {
		if r.Name == h.refuse && h.refuse != "" {
			err = fmt.Errorf("%s: refused by the test", r.Name)
			continue
		}
		h.held[u.TypeURL][r.Name] = r.Version
		switch u.TypeURL {
		case clusters:
			c := &clusterv3.Cluster{}
			if e := proto.Unmarshal(r.Body, c); e != nil {
				return e
			}
			h.follow["cluster/"+r.Name] = set{}
			if c.GetType() == clusterv3.Cluster_EDS {
				h.follow["cluster/"+r.Name][c.GetEdsClusterConfig().GetServiceName()] = struct{}{}
			}
		case listeners:
			if h.follow["listener/"+r.Name], err = routesOf(r.Body); err != nil {
				return err
			}
		}
	}
	for _, n := range u.Removed {
		delete(h.held[u.TypeURL], n)
		delete(h.follow, map[string]string{clusters: "cluster/", listeners: "listener/"}[u.TypeURL]+n)
	}
	switch u.TypeURL {
	case clusters:
		h.client.Want(endpoints, h.followed("cluster/"))
	case listeners:
		h.client.Want(routes, h.followed("listener/"))
	}
	return err
}

func (h *holder) followed(kind string) []string {
	all := set{}
	for by, what := range h.follow {
		if strings.HasPrefix(by, kind) {
			maps.Copy(all, what)
		}
	}
	return slices.Collect(maps.Keys(all))
}

func routesOf(body []byte) (set, error) {
	l, all := &listenerv3.Listener{}, set{}
	if err := proto.Unmarshal(body, l); err != nil {
		return nil, err
	}
	for _, chain := range append(l.GetFilterChains(), l.GetDefaultFilterChain()) {
		for _, f := range chain.GetFilters() {
			m := &hcmv3.HttpConnectionManager{}
			if !f.GetTypedConfig().MessageIs(m) {
				continue
			}
			if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
				return nil, err
			}
			if n := m.GetRds().GetRouteConfigName(); n != "" {
				all[n] = struct{}{}
			}
		}
	}
	return all, nil
}

func (h *holder) has(typeURL, name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.held[typeURL][name]
	return ok
}

func nameOf(typeURL string, body []byte) (string, error) {
	var m interface {
		proto.Message
		GetName() string
	}
	switch typeURL {
	case clusters:
		m = &clusterv3.Cluster{}
	case listeners:
		m = &listenerv3.Listener{}
	case routes:
		m = &routev3.RouteConfiguration{}
	case endpoints:
		e := &endpointv3.ClusterLoadAssignment{}
		err := proto.Unmarshal(body, e)
		return e.GetClusterName(), err
	default:
		return "", nil
	}
	err := proto.Unmarshal(body, m)
	return m.GetName(), err
}

// TestIstiod asks a real istiod, which panics where it finds the protocol
// broken, in both protocols: it counts us as in step, its changes come, what we
// refuse is known to it, and after it was gone all goes on.
func TestIstiod(t *testing.T) {
	t.Parallel()
	for _, world := range []bool{false, true} {
		t.Run(map[bool]string{false: "delta", true: "sotw"}[world], func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t, lab.Options{Objects: lab.Bookinfo(), Env: []string{"UNSAFE_PILOT_ENABLE_RUNTIME_ASSERTIONS=true"}})
			h := ask(t, l, world)
			inStep(t, l, h)
			for _, want := range [][2]string{{clusters, "outbound|9080|v1|reviews.default.svc.cluster.local"}, {endpoints, "outbound|9080|v1|reviews.default.svc.cluster.local"},
				{listeners, "virtualInbound"}, {routes, "9080"}, {names, ""}} {
				if !h.has(want[0], want[1]) {
					t.Errorf("%s %q isn't there", want[0], want[1])
				}
			}
			testChange(t, l, h)
			testOutage(t, l, h)
			if log := l.Log(); strings.Contains(log, "check mismatch") || strings.Contains(log, "panic") {
				t.Errorf("istiod finds fault with us:\n%s", log)
			}
		})
	}
}

// ask runs a client as the sidecar of productpage until the test ends.
func ask(t *testing.T, l *lab.Rig, world bool) *holder {
	t.Helper()
	const ip, pod, account = "10.244.0.10", "productpage-v1", "bookinfo-productpage"
	metadata, err := structpb.NewStruct(map[string]any{"CLUSTER_ID": lab.ClusterID, "NAMESPACE": "default", "SERVICE_ACCOUNT": account, "INSTANCE_IPS": ip,
		"NAME": pod, "ISTIO_VERSION": "1.31.0", "MESH_ID": lab.TrustDomain, "PROXY_CONFIG": map[string]any{}})
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Ports.Secure)
	if err != nil {
		t.Fatal(err)
	}
	h := &holder{held: map[string]map[string]string{}, follow: map[string]set{}}
	h.client, err = xds.New(xds.Options{
		Server: controlplane.Server{Address: "localhost:" + port, ServerName: lab.ServerName, RootFile: l.RootCert(), TokenFile: l.Token("default", account), ClusterID: lab.ClusterID},
		Node: func() *xds.Node {
			return &xds.Node{Id: "sidecar~" + ip + "~" + pod + ".default~default.svc.cluster.local", Metadata: metadata}
		},
		Types: []string{clusters, listeners, names}, StateOfTheWorld: world, Name: nameOf, Sink: h,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.client.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return h
}

// inStep waits until istiod counts us as in step and every name is answered.
func inStep(t *testing.T, l *lab.Rig, h *holder) {
	t.Helper()
	rig.Until(t, "istiod knows that the proxy is in step", func() error {
		st := h.client.Status()
		if st.State != xds.Connected || len(st.Types) != 5 {
			return fmt.Errorf("%+v", st)
		}
		for _, ty := range st.Types {
			if ty.Waiting() {
				return fmt.Errorf("%s isn't answered", ty.TypeURL)
			}
		}
		if s := l.Syncz()["productpage-v1.default"]; !s.InStep() || s.RouteSent == "" || s.EndpointSent == "" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

const more = `{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: more, namespace: default},
 spec: {hosts: [more.example.com], ports: [{number: 81, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 10.9.9.9}]}}`

// testChange adds a service, which we refuse at first, and takes it away.
func testChange(t *testing.T, l *lab.Rig, h *holder) {
	const cluster = "outbound|81||more.example.com"
	h.mu.Lock()
	h.refuse = cluster
	h.mu.Unlock()
	l.Apply(more)
	rig.Until(t, "istiod knows that the cluster is refused", func() error {
		text, err := rig.Fetch("GET", "http://"+l.Ports.Monitoring+"/metrics")
		if err != nil {
			return err
		}
		if !strings.Contains(text, `pilot_total_xds_rejects{type="cds"`) {
			return fmt.Errorf("no pilot_total_xds_rejects; the client: %+v", h.client.Status())
		}
		return nil
	})
	h.mu.Lock()
	h.refuse = ""
	h.mu.Unlock()
	if h.has(clusters, cluster) {
		t.Error("the cluster is there all the same")
	}
	l.Delete(more)
	l.Apply(more)
	rig.Until(t, "the service is there", func() error {
		if !h.has(clusters, cluster) || !h.has(endpoints, cluster) || !h.has(routes, "81") {
			return fmt.Errorf("%+v", h.client.Status())
		}
		return nil
	})
	inStep(t, l, h)
	l.Delete(more)
	rig.Until(t, "the service is gone", func() error {
		if h.has(clusters, cluster) {
			return fmt.Errorf("%+v", h.client.Status())
		}
		return nil
	})
	inStep(t, l, h)
}

// testOutage ends istiod and starts it anew.
func testOutage(t *testing.T, l *lab.Rig, h *holder) {
	l.Kill()
	rig.Until(t, "the outage is known", func() error {
		if st := h.client.Status(); st.State == xds.Connected || st.Err == nil {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	l.Restart()
	inStep(t, l, h)
	reg := stats.NewRegistry()
	reg.Add(h.client)
	for _, m := range reg.List(stats.Query{}) {
		if m.Name == "control_plane.connected_state" && m.Value != 1 || strings.Contains(m.Name, "unrequested_responses") && m.Value != 0 {
			t.Errorf("%s is %v", m.Name, m.Value)
		}
	}
}
