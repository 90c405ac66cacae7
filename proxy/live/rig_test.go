// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"pillion/proxy/cluster"
	"pillion/proxy/config"
	"pillion/proxy/stats"
	"pillion/proxy/tls"
	"pillion/proxy/tls/localca"
	"pillion/proxy/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Sink whose listeners are only noted down.
type rig struct {
	*Sink
	t        testing.TB
	clusters *cluster.Manager
	serving  map[string]*config.Listener

	mu     sync.Mutex
	log    []string            // what was done to listeners; guarded by mu
	fail   map[string]error    // of listeners that can't be bound; guarded by mu
	wanted map[string][]string // guarded by mu
}

func newRig(t testing.TB, change ...func(*Options)) *rig {
	r := &rig{t: t, serving: map[string]*config.Listener{}, fail: map[string]error{}, wanted: map[string][]string{}}
	registry := stats.NewRegistry()
	r.clusters = cluster.NewManager(cluster.Options{Stats: registry, Resolver: silentDNS{}})
	o := Options{
		Env:       config.Env{Clusters: r.clusters, Registry: registry, Secrets: tls.NewSecrets()},
		Listeners: r, Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&o)
	}
	r.Sink = New(o)
	r.Subscribe(r)
	t.Cleanup(r.end)
	return r
}

// silentDNS answers nothing, which holds up nobody.
type silentDNS struct{}

func (silentDNS) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (r *rig) end() {
	r.Close()
	r.clusters.Close()
}

// Update implements Listeners.
func (r *rig) Update(put []*config.Listener, remove []string) map[string]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	failed := map[string]error{}
	for _, l := range put {
		if err := r.fail[l.Name]; err != nil {
			failed[l.Name] = err
			continue
		}
		r.serving[l.Name] = l
		r.log = append(r.log, "serve "+l.Name)
	}
	for _, name := range remove {
		delete(r.serving, name)
		r.log = append(r.log, "end "+name)
	}
	return failed
}

// Want implements xds.Subscriber.
func (r *rig) Want(typeURL string, names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted[typeURL] = names
}

// busy makes a listener's address one that can't be had, or that can be again.
func (r *rig) busy(name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail[name] = err
}

func (r *rig) wants(typeURL string, names ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := r.wanted[typeURL]; !slices.Equal(got, names) {
		r.t.Errorf("of %s it asks for %q, not %q", typeURL[strings.LastIndexByte(typeURL, '.')+1:], got, names)
	}
}

// done returns what was done to listeners since the last call.
func (r *rig) done() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := strings.Join(r.log, ", ")
	r.log = nil
	return out
}

// push applies resources of one type, which must be taken.
func (r *rig) push(list ...proto.Message) {
	r.t.Helper()
	if err := r.Apply(updateOf(list...)); err != nil {
		r.t.Fatalf("refused: %v", err)
	}
}

// refused applies resources of which some must be refused, and returns why.
func (r *rig) refused(list ...proto.Message) string {
	r.t.Helper()
	err := r.Apply(updateOf(list...))
	if err == nil {
		r.t.Fatal("it was taken")
	}
	return err.Error()
}

func (r *rig) remove(typeURL string, names ...string) {
	r.t.Helper()
	if err := r.Apply(&xds.Update{TypeURL: typeURL, Version: "x", Removed: names}); err != nil {
		r.t.Fatal(err)
	}
}

// hosts describes what is served of the clusters: names with the addresses of hosts.
func (r *rig) hosts() string {
	var out []string
	for _, c := range r.clusters.Clusters() {
		var addrs []string
		for _, h := range c.Status().Hosts {
			addrs = append(addrs, h.Address)
		}
		out = append(out, c.Name()+"="+strings.Join(addrs, "+"))
	}
	return strings.Join(out, " ")
}

// state describes all that is served and all that is known.
func (r *rig) state() string {
	var b strings.Builder
	fmt.Fprintln(&b, "clusters", r.hosts())
	for _, name := range slices.Sorted(maps.Keys(r.serving)) {
		l := r.serving[name]
		fmt.Fprint(&b, "listener ", name, " ", l.Address)
		for _, c := range l.Chains {
			fmt.Fprintf(&b, " %s/%x", c.Name, c.Gate[:4])
			if c.HCM != nil {
				fmt.Fprint(&b, " ", tableText(c.HCM.Routes.Load()))
			}
		}
		fmt.Fprintln(&b)
	}
	for _, t := range r.Status() {
		for _, res := range t.Resources {
			fmt.Fprint(&b, t.TypeURL[strings.LastIndexByte(t.TypeURL, '.')+1:], " ", res.Name)
			for _, h := range []*Held{res.Active, res.Warming} {
				if h != nil {
					fmt.Fprintf(&b, " %x", len(h.Body))
				} else {
					fmt.Fprint(&b, " -")
				}
			}
			fmt.Fprintln(&b, "", res.Waits, res.Draining, res.Refused != nil)
		}
	}
	return b.String()
}

func typeOf(m proto.Message) (typeURL, name string) {
	switch m := m.(type) {
	case *clusterv3.Cluster:
		return ClusterType, m.GetName()
	case *endpointv3.ClusterLoadAssignment:
		return EndpointType, m.GetClusterName()
	case *listenerv3.Listener:
		return ListenerType, m.GetName()
	case *routev3.RouteConfiguration:
		return RouteType, m.GetName()
	case *corev3.TypedExtensionConfig:
		return ExtensionType, m.GetName()
	}
	return SecretType, m.(interface{ GetName() string }).GetName()
}

func updateOf(list ...proto.Message) *xds.Update {
	u := &xds.Update{Version: "1"}
	for _, m := range list {
		typ, name := typeOf(m)
		u.TypeURL = typ
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			panic(err)
		}
		u.Resources = append(u.Resources, xds.Resource{Name: name, Body: body})
	}
	return u
}

func fill[M proto.Message](m M, json string, args ...any) M {
	if err := protojson.Unmarshal(fmt.Appendf(nil, json, args...), m); err != nil {
		panic(fmt.Sprintf("%v in %s", err, fmt.Sprintf(json, args...)))
	}
	return m
}

// edsCluster is a cluster whose hosts come apart from it.
func edsCluster(name string) *clusterv3.Cluster {
	return fill(&clusterv3.Cluster{}, `{"name": %q, "type": "EDS", "edsClusterConfig": {"edsConfig": {"ads": {}}}}`, name)
}

// staticCluster is one that has its host with it.
func staticCluster(name, host string) *clusterv3.Cluster {
	ip, port, _ := strings.Cut(host, ":")
	return fill(&clusterv3.Cluster{}, `{"name": %q, "type": "STATIC", "loadAssignment": {"clusterName": %q, "endpoints": [{"lbEndpoints": [
		{"endpoint": {"address": {"socketAddress": {"address": %q, "portValue": %s}}}}]}]}}`, name, name, ip, port)
}

func assignment(name string, hosts ...string) *endpointv3.ClusterLoadAssignment {
	var list []string
	for _, h := range hosts {
		ip, port, _ := strings.Cut(h, ":")
		list = append(list, fmt.Sprintf(`{"endpoint": {"address": {"socketAddress": {"address": %q, "portValue": %s}}}}`, ip, port))
	}
	if len(list) == 0 {
		return &endpointv3.ClusterLoadAssignment{ClusterName: name}
	}
	return fill(&endpointv3.ClusterLoadAssignment{}, `{"clusterName": %q, "endpoints": [{"lbEndpoints": [%s]}]}`, name, strings.Join(list, ","))
}

const routerFilter = `{"name": "router", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}`

// httpListener is a listener with one chain that reads a route configuration; filters
// come before the router.
func httpListener(name, addr, rds string, filters ...string) *listenerv3.Listener {
	ip, port, _ := strings.Cut(addr, ":")
	return fill(&listenerv3.Listener{}, `{"name": %q, "address": {"socketAddress": {"address": %q, "portValue": %s}}, "filterChains": [{"name": "chain", "filters": [%s]}]}`,
		name, ip, port, hcmFilter(name, rds, filters...))
}

func hcmFilter(prefix, rds string, filters ...string) string {
	return fmt.Sprintf(`{"name": "hcm", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"statPrefix": %q, "rds": {"configSource": {"ads": {}}, "routeConfigName": %q}, "httpFilters": [%s]}}`, prefix, rds, strings.Join(append(filters, routerFilter), ","))
}

// routesTo is a route configuration with a virtual host for each "domain=cluster".
func routesTo(name string, hosts ...string) *routev3.RouteConfiguration {
	rc := &routev3.RouteConfiguration{Name: name}
	for _, h := range hosts {
		domain, to, _ := strings.Cut(h, "=")
		rc.VirtualHosts = append(rc.VirtualHosts, fill(&routev3.VirtualHost{}, `{"name": %q, "domains": [%q], "routes": [
			{"name": %q, "match": {"prefix": "/"}, "route": {"cluster": %q}}]}`, domain, domain, to, to))
	}
	return rc
}

var errBusy = errors.New("10.0.0.1:80 is in use")

// tlsListener is httpListener with TLS, whose certificate is a secret.
func tlsListener(name, addr, secret string) *listenerv3.Listener {
	l := httpListener(name, addr, "80")
	l.FilterChains[0].TransportSocket = fill(&corev3.TransportSocket{}, `{"name": "tls", "typedConfig": {
		"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
		"commonTlsContext": {"tlsCertificateSdsSecretConfigs": [{"name": %q, "sdsConfig": {"ads": {}}}]}}}`, secret)
	return l
}

// testSecret is a secret with a certificate that is good now.
func testSecret(t testing.TB, name string) *tlsv3.Secret {
	ca, err := localca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Issue("shop", "db")
	if err != nil {
		t.Fatal(err)
	}
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(leaf.Chain), PrivateKey: inline(leaf.Key)}}}
}

// rootsOf makes trust anchors of the chain of a certificate's secret.
func rootsOf(s *tlsv3.Secret) *tlsv3.Secret {
	return &tlsv3.Secret{Name: s.GetName(), Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: s.GetTlsCertificate().GetCertificateChain()}}}
}
