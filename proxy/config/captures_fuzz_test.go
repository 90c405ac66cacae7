// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 istiod sets match_subject_alt_names, which is deprecated

package config

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/filter"
	"pillion/proxy/filter/extauthz"
	"pillion/proxy/filter/jwt"
	"pillion/proxy/filter/rbac"
	"pillion/proxy/tls"
)

// guard is what protects the connections and requests of one filter chain, or the
// connections of one cluster, in numbers.
type guard struct {
	tls, clientCert, validated bool
	names, pins                int // that a peer's certificate is compared with
	// Filters and their policies, of connections and of requests.
	connections, requests authorization
	tokens, tokenRules    int // JWT filters
}

type authorization struct{ filters, policies, asked int }

func (a *authorization) add(rules, shadow *rbacconfigv3.RBAC) {
	if rules != nil || shadow != nil {
		a.filters++
		a.policies += len(rules.GetPolicies()) + len(shadow.GetPolicies())
	}
}

// guardIn is what a message says.
func guardIn(fc *listenerv3.FilterChain) (g guard) {
	if ctx := (&tlsv3.DownstreamTlsContext{}); messageType(fc.GetTransportSocket().GetTypedConfig()) == downstreamTLSType &&
		fc.GetTransportSocket().GetTypedConfig().UnmarshalTo(ctx) == nil {
		g.tls, g.clientCert = true, ctx.GetRequireClientCertificate().GetValue()
		g.validation(ctx.GetCommonTlsContext())
	}
	for _, f := range fc.GetFilters() {
		cfg := f.GetTypedConfig()
		switch messageType(cfg) {
		case networkRBACType:
			m := &networkrbacv3.RBAC{}
			_ = cfg.UnmarshalTo(m)
			g.connections.add(m.GetRules(), m.GetShadowRules())
		case networkExtAuthzType:
			g.connections.asked++
		case hcmType:
			m := &hcmv3.HttpConnectionManager{}
			_ = cfg.UnmarshalTo(m)
			for _, f := range m.GetHttpFilters() {
				if !f.GetDisabled() {
					g.request(f.GetTypedConfig())
				}
			}
		}
	}
	return g
}

func (g *guard) validation(c *tlsv3.CommonTlsContext) {
	v := c.GetValidationContext()
	if combined := c.GetCombinedValidationContext(); combined != nil {
		v = combined.GetDefaultValidationContext()
	}
	g.validated = c.GetValidationContextType() != nil
	if g.names = len(v.GetMatchTypedSubjectAltNames()); g.names == 0 {
		g.names = len(v.GetMatchSubjectAltNames())
	}
	g.pins = len(v.GetVerifyCertificateHash()) + len(v.GetVerifyCertificateSpki())
}

func (g *guard) request(cfg *anypb.Any) {
	switch messageType(cfg) {
	case httpRBACType:
		m := &httprbacv3.RBAC{}
		_ = cfg.UnmarshalTo(m)
		g.requests.add(m.GetRules(), m.GetShadowRules())
	case extAuthzType:
		g.requests.asked++
	case jwtType:
		m := &jwtv3.JwtAuthentication{}
		_ = cfg.UnmarshalTo(m)
		g.tokens++
		g.tokenRules += len(m.GetRules())
	}
}

// guardOut is what was compiled. It looks into filters, which tell nobody what they
// are made of.
func guardOut(c *Chain) (g guard) {
	if c.TLS != nil {
		g.tls, g.clientCert = true, inside(c.TLS, "cfg", "RequireClientCertificate").Bool()
		g.validationOut(inside(c.TLS, "cfg", "Validation"))
	}
	admit := []filter.Admitter{}
	if c.TCP != nil {
		admit = c.TCP.Admit
	} else {
		admit = append(admit, c.HCM.Admit...)
		for _, f := range c.HCM.NoRouteChain.Request {
			switch f := f.(type) {
			case *rbac.Filter:
				g.requests.addOut(f)
			case *extauthz.Filter:
				g.requests.asked++
			case *jwt.Filter:
				g.tokens++
				g.tokenRules += inside(f, "engine", "rules").Len()
			}
		}
	}
	for _, a := range admit {
		switch a := a.(type) {
		case *rbac.Network:
			g.connections.addOut(a)
		case *extauthz.Network:
			g.connections.asked++
		}
	}
	return g
}

func (g *guard) validationOut(v reflect.Value) {
	if g.validated = !v.IsNil(); g.validated {
		v = v.Elem()
		g.names, g.pins = v.FieldByName("SANs").Len(), v.FieldByName("Hashes").Len()+v.FieldByName("SPKIs").Len()
	}
}

func (a *authorization) addOut(f any) {
	a.filters++
	for _, set := range []string{"rules", "shadow"} {
		if check := inside(f, set); !check.IsNil() {
			a.policies += check.Elem().FieldByName("rules").Elem().FieldByName("policies").Len()
		}
	}
}

// inside returns a field within v, through pointers.
func inside(v any, path ...string) reflect.Value {
	at := reflect.ValueOf(v)
	for _, name := range path {
		if at.Kind() == reflect.Pointer {
			at = at.Elem()
		}
		at = at.FieldByName(name)
	}
	return at
}

// seedListeners are listeners that istiod sent, without access logs: a logger opens
// the file that it names.
func seedListeners(t testing.TB) (out []*listenerv3.Listener) {
	t.Helper()
	wire, err := os.ReadFile(filepath.Join("testdata", "istiod", "listeners.pb"))
	if err != nil {
		t.Fatal(err)
	}
	m := &discoveryv3.DiscoveryResponse{}
	if err := proto.Unmarshal(wire, m); err != nil {
		t.Fatal(err)
	}
	for _, a := range m.GetResources() {
		l := &listenerv3.Listener{}
		if err := a.UnmarshalTo(l); err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// FuzzCaptured holds that no listener and no cluster that looks like istiod's makes the
// compiler panic, and that one which is accepted keeps every policy that it came with.
// The first argument is a message in wire form, the second one, unless 0, how many
// changes it gets, and the third one which.
func FuzzCaptured(f *testing.F) {
	for i, l := range seedListeners(f) {
		raw, err := proto.Marshal(l)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(true, raw, uint8(0), uint64(0))
		for n := range 6 {
			f.Add(true, raw, uint8(n+1), uint64(i))
		}
	}
	for i, c := range receive(f, "full-productpage-v1").clusters {
		raw, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(false, raw, uint8(i%4), uint64(i))
	}
	f.Fuzz(func(t *testing.T, listener bool, raw []byte, changes uint8, seed uint64) {
		r := rand.New(rand.NewPCG(seed, seed))
		if listener {
			l := &listenerv3.Listener{}
			if proto.Unmarshal(raw, l) != nil {
				return
			}
			for range changes % 16 {
				mutate(l, r)
			}
			checkListener(t, l)
			return
		}
		c := &clusterv3.Cluster{}
		if proto.Unmarshal(raw, c) != nil {
			return
		}
		for range changes % 16 {
			mutate(c, r)
		}
		checkCluster(t, c)
	})
}

func checkListener(t *testing.T, l *listenerv3.Listener) {
	if dropLogs(l) != nil {
		return
	}
	c := NewCompiler(Env{})
	defer c.Close()
	snap, err := c.Compile(&Resources{Listeners: []*listenerv3.Listener{l}, Routes: routesOf(l)})
	if err != nil {
		if err.Error() == "" {
			t.Error("refused without a word")
		}
		return
	}
	out := snap.Listeners[l.GetName()]
	if len(out.Chains) != len(l.GetFilterChains()) || (out.Default != nil) != (l.GetDefaultFilterChain() != nil) {
		t.Fatalf("%d chains of %d, default %t", len(out.Chains), len(l.GetFilterChains()), out.Default != nil)
	}
	chains := out.Chains
	if out.Default != nil {
		chains = append(chains[:len(chains):len(chains)], out.Default)
	}
	for i, fc := range chainsOf(l) {
		if in, out := guardIn(fc), guardOut(chains[i]); in != out {
			t.Errorf("chain %d (%s) came with\n%+v and has\n%+v", i, fc.GetName(), in, out)
		}
	}
}

// routesOf returns an empty route configuration for each that a listener names.
func routesOf(l *listenerv3.Listener) (out []*routev3.RouteConfiguration) {
	for _, fc := range chainsOf(l) {
		for _, f := range fc.GetFilters() {
			m := &hcmv3.HttpConnectionManager{}
			if messageType(f.GetTypedConfig()) == hcmType && f.GetTypedConfig().UnmarshalTo(m) == nil && m.GetRds() != nil {
				out = append(out, &routev3.RouteConfiguration{Name: m.GetRds().GetRouteConfigName()})
			}
		}
	}
	return out
}

// dropLogs takes access logs out; an error is a message that can't be decoded.
func dropLogs(l *listenerv3.Listener) error {
	l.AccessLog = nil
	for _, fc := range chainsOf(l) {
		for _, f := range fc.GetFilters() {
			m, err := f.GetTypedConfig().UnmarshalNew()
			if err != nil {
				return err
			}
			fd := m.ProtoReflect().Descriptor().Fields().ByName("access_log")
			if fd == nil {
				continue
			}
			m.ProtoReflect().Clear(fd)
			if err := f.GetTypedConfig().MarshalFrom(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkCluster(t *testing.T, c *clusterv3.Cluster) {
	metadata := map[bool]string{true: `{"tlsMode": "istio"}`, false: `{}`}
	for meshed, text := range metadata {
		cla := endpointWith(t, text)
		cfg, _, err := CompileCluster(c, cla)
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a word")
			}
			continue
		}
		sockets := c.GetTransportSocketMatches()
		socket := c.GetTransportSocket()
		for _, m := range sockets {
			if matchesMode(m, meshed) {
				socket = m.GetTransportSocket()
				break
			}
		}
		secured := messageType(socket.GetTypedConfig()) == upstreamTLSType
		for _, e := range cfg.Endpoints {
			if c.GetLoadAssignment() == nil && secured != (e.TLS != nil) && e.Unusable == "" {
				t.Errorf("an endpoint with %s: TLS %t, want %t", text, e.TLS != nil, secured)
			}
			sameValidation(t, socket, e.TLS)
		}
		sameValidation(t, c.GetTransportSocket(), cfg.TLS)
	}
}

// sameValidation compares what a TLS context of a cluster says with what it became.
func sameValidation(t *testing.T, s interface{ GetTypedConfig() *anypb.Any }, c *tls.Client) {
	ctx := &tlsv3.UpstreamTlsContext{}
	if c == nil || s.GetTypedConfig().UnmarshalTo(ctx) != nil {
		return
	}
	var in, out guard
	in.validation(ctx.GetCommonTlsContext())
	out.validationOut(inside(c, "cfg", "Validation"))
	if in != out {
		t.Errorf("a TLS context came with\n%+v and has\n%+v", in, out)
	}
}

// endpointWith returns one endpoint that asks for a transport socket by metadata.
func endpointWith(t *testing.T, metadata string) *endpointv3.ClusterLoadAssignment {
	t.Helper()
	cla := &endpointv3.ClusterLoadAssignment{}
	fromYAML(t, `endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}},
 metadata: {filter_metadata: {envoy.transport_socket_match: `+metadata+`}}}]}]`, cla)
	return cla
}

// matchesMode tells whether a socket is for an endpoint of the mesh, or for others.
func matchesMode(m *clusterv3.Cluster_TransportSocketMatch, meshed bool) bool {
	for key, v := range m.GetMatch().GetFields() {
		if !meshed || key != "tlsMode" || v.GetStringValue() != "istio" {
			return false
		}
	}
	return true
}

// TestCapturedGuards: the seeds have something of everything that has to be kept.
func TestCapturedGuards(t *testing.T) {
	var sum guard
	for _, l := range seedListeners(t) {
		checkListener(t, l)
		for _, fc := range chainsOf(l) {
			g := guardIn(fc)
			sum.tls, sum.clientCert, sum.validated = sum.tls || g.tls, sum.clientCert || g.clientCert, sum.validated || g.validated
			sum.names += g.names
			sum.connections.policies += g.connections.policies
			sum.connections.asked += g.connections.asked
			sum.requests.policies += g.requests.policies
			sum.requests.asked += g.requests.asked
			sum.tokenRules += g.tokenRules
		}
	}
	want := guard{tls: true, clientCert: true, validated: true, names: 9, connections: authorization{policies: 5},
		requests: authorization{policies: 12, asked: 1}, tokenRules: 5}
	if sum != want {
		t.Errorf("the seeds have\n%+v, want\n%+v", sum, want)
	}
}
