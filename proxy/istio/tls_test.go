// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

const tlsHost = "a.default.svc.cluster.local"

func tlsRule(policy string) string {
	return "\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a, namespace: default}\nspec:\n  host: a\n  " + policy + "\n"
}

func labelledYAML() string {
	return strings.Replace(serviceYAML("default", tlsHost, port80), "version: v1", "version: v1, security.istio.io/tlsMode: istio", 1)
}

// upstreamContext is the TLS context of a cluster's only socket; nil without one.
func upstreamContext(t *testing.T, c *clusterv3.Cluster) *tlsv3.UpstreamTlsContext {
	t.Helper()
	if c.GetTransportSocket() == nil {
		return nil
	}
	out := &tlsv3.UpstreamTlsContext{}
	if err := c.TransportSocket.GetTypedConfig().UnmarshalTo(out); err != nil {
		t.Fatal(err)
	}
	return out
}

// describeContext says in one line what a context shows and demands.
func describeContext(c *tlsv3.UpstreamTlsContext) string {
	if c == nil {
		return "plain"
	}
	var out []string
	for _, s := range c.CommonTlsContext.TlsCertificateSdsSecretConfigs {
		out = append(out, "shows "+s.Name)
	}
	if v := c.CommonTlsContext.GetCombinedValidationContext(); v != nil {
		out = append(out, "trusts "+v.ValidationContextSdsSecretConfig.Name)
		//lint:ignore SA1019 istiod sets it
		for _, m := range v.DefaultValidationContext.MatchSubjectAltNames {
			out = append(out, "wants "+m.GetExact())
		}
		if f := v.DefaultValidationContext.Crl.GetFilename(); f != "" {
			out = append(out, "crl "+f)
		}
	}
	if c.Sni != "" {
		out = append(out, "sni "+c.Sni)
	}
	return strings.Join(append(out, c.CommonTlsContext.AlpnProtocols...), ", ")
}

// TestDestinationRuleTLS: each mode, at each level.
func TestDestinationRuleTLS(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("", "client")
	secret := secretYAML("default", "c", "tls.crt", cert, "tls.key", key, "ca.crt", ca.pem, "ca.crl", ca.crl())
	const files = "clientCertificate: /c.pem, privateKey: /k.pem"
	const own = "shows default, trusts ROOTCA, "
	const sni = "sni outbound_.80_._.a.default.svc.cluster.local, istio-peer-exchange, istio"
	for _, c := range []struct{ name, rule, want, auto string }{
		{"disable", "trafficPolicy: {tls: {mode: DISABLE}}", "plain", ""},
		{"simple", "trafficPolicy: {tls: {mode: SIMPLE}}", "trusts file-root:system", "sni san"},
		{"simple with names", "trafficPolicy: {tls: {mode: SIMPLE, sni: s.example.com, subjectAltNames: [s, t], caCertificates: /ca.pem, caCrl: /crl.pem}}",
			"trusts file-root:/ca.pem, wants s, wants t, crl /crl.pem, sni s.example.com", ""},
		{"simple with SANs", "trafficPolicy: {tls: {mode: SIMPLE, subjectAltNames: [s]}}", "trusts file-root:system, wants s", "sni"},
		{"simple unverified", "trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}", "", "sni"},
		{"simple by secret", "trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}", "trusts kubernetes://c-cacert", "sni san"},
		{"simple HTTP/2", "trafficPolicy: {tls: {mode: SIMPLE}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}", "trusts file-root:system, h2", "sni san"},
		{"mutual", "trafficPolicy: {tls: {mode: MUTUAL, " + files + ", caCertificates: /ca.pem}}", "shows file-cert:/c.pem~/k.pem, trusts file-root:/ca.pem", "sni san"},
		{"mutual by secret", "trafficPolicy: {tls: {mode: MUTUAL, credentialName: c}}", "shows kubernetes://c, trusts kubernetes://c-cacert", "sni san"},
		{"mutual by secret, unverified", "trafficPolicy: {tls: {mode: MUTUAL, credentialName: c, insecureSkipVerify: true}}", "shows kubernetes://c", "sni"},
		{"istio", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}", own + sni, ""},
		{"istio HTTP/2", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}", own + sni + ", h2", ""},
		{"istio with names", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: gate.example.com, subjectAltNames: [s]}}",
			own + "wants s, sni gate.example.com, istio-peer-exchange, istio", ""},
		{"port", "trafficPolicy: {tls: {mode: DISABLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, sni: p}}]}", "trusts file-root:system, sni p", ""},
		{"another port", "trafficPolicy: {portLevelSettings: [{port: {number: 81}, tls: {mode: SIMPLE}}]}", "plain", ""},
		{"subset", "subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}]",
			own + "sni outbound_.80_.v1_.a.default.svc.cluster.local, istio-peer-exchange, istio", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, problems := Translate(load(t, serviceYAML("default", tlsHost, port80)+tlsRule(c.rule)+secret), Options{Identity: true})
			if r == nil {
				t.Fatalf("refused:\n%s", describe(problems))
			}
			name := "outbound|80||" + tlsHost
			if c.name == "subset" {
				name = "outbound|80|v1|" + tlsHost
			}
			cluster := r.clusterOf(name)
			if got := describeContext(upstreamContext(t, cluster)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			o := &httpv3.HttpProtocolOptions{}
			if a := cluster.TypedExtensionProtocolOptions[httpOptionsKey]; a != nil {
				if err := a.UnmarshalTo(o); err != nil {
					t.Fatal(err)
				}
			}
			auto := ""
			if o.GetUpstreamHttpProtocolOptions().GetAutoSni() {
				auto = "sni"
			}
			if o.GetUpstreamHttpProtocolOptions().GetAutoSanValidation() {
				auto += " san"
			}
			if auto != c.auto {
				t.Errorf("automatic: %q, want %q", auto, c.auto)
			}
			override := cluster.Metadata.FilterMetadata[metadataIstio].Fields["alpn_override"].GetStringValue()
			mesh := strings.HasPrefix(c.name, "istio") || c.want == "plain" || c.name == "subset"
			if (override == "false") == mesh {
				t.Errorf("alpn_override is %q", override)
			}
		})
	}
}

// TestAutoMTLS: who gets mutual TLS without being asked for.
func TestAutoMTLS(t *testing.T) {
	peer := func(namespace, spec string) string {
		return "\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p" + namespace + ", namespace: " + namespace + "}\nspec: " + spec + "\n"
	}
	external := strings.Replace(labelledYAML(), "MESH_INTERNAL", "MESH_EXTERNAL", 1)
	for _, c := range []struct {
		name, yaml       string
		identity         bool
		matches, labeled bool
	}{
		{"labelled", labelledYAML(), true, true, true},
		{"no label", serviceYAML("default", tlsHost, port80), true, true, false},
		{"no identity", labelledYAML(), false, false, true},
		{"external", external, true, false, true},
		{"mesh disables", labelledYAML() + peer("istio-system", "{mtls: {mode: DISABLE}}"), true, false, false},
		{"namespace disables", labelledYAML() + peer("default", "{mtls: {mode: DISABLE}}"), true, false, false},
		{"namespace before mesh", labelledYAML() + peer("istio-system", "{mtls: {mode: DISABLE}}") + peer("default", "{mtls: {mode: STRICT}}"), true, true, true},
		{"workload disables", labelledYAML() + peer("default", "{selector: {matchLabels: {version: v1}}, mtls: {mode: DISABLE}}"), true, true, false},
		{"port disables", labelledYAML() + peer("default", "{selector: {matchLabels: {version: v1}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}}}"), true, true, false},
		{"another workload disables", labelledYAML() + peer("default", "{selector: {matchLabels: {version: v9}}, mtls: {mode: DISABLE}}"), true, true, true},
		{"rule disables", labelledYAML() + tlsRule("trafficPolicy: {tls: {mode: DISABLE}}"), true, false, false},
		{"rule demands", labelledYAML() + tlsRule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"), true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, problems := Translate(load(t, c.yaml), Options{Identity: c.identity})
			if r == nil {
				t.Fatalf("refused:\n%s", describe(problems))
			}
			name := "outbound|80||" + tlsHost
			if got := len(r.clusterOf(name).TransportSocketMatches) == 2; got != c.matches {
				t.Errorf("a choice of sockets: %v, want %v", got, c.matches)
			}
			labeled := false
			for _, e := range r.Endpoints {
				if e.ClusterName == name {
					labeled = e.Endpoints[0].LbEndpoints[0].Metadata.FilterMetadata[metadataSocketMatch] != nil
				}
			}
			if labeled != c.labeled {
				t.Errorf("the endpoint asks for mutual TLS: %v, want %v", labeled, c.labeled)
			}
			if c.name == "no identity" {
				wantProblem(t, problems, true, `spec.endpoints[0].labels["security.istio.io/tlsMode"]`, "plaintext is sent")
			}
		})
	}
}

// TestIdentities: servers have to prove the service accounts of the endpoints, and what
// the ServiceEntry adds.
func TestIdentities(t *testing.T) {
	yaml := strings.Replace(labelledYAML(), "spec:", "spec:\n  subjectAltNames: [spiffe://other/x]", 1)
	yaml = strings.Replace(yaml, "labels: {version: v1", "serviceAccount: web, labels: {version: v1", 1)
	r, _ := translate(t, yaml+tlsRule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"), Options{Identity: true, TrustDomain: "td.example"})
	got := describeContext(upstreamContext(t, r.clusterOf("outbound|80||"+tlsHost)))
	if want := "wants spiffe://other/x, wants spiffe://td.example/ns/default/sa/web, sni"; !strings.Contains(got, want) {
		t.Errorf("got %s", got)
	}
}

// TestTLSRefused: nothing is served without what it was to be secured with.
func TestTLSRefused(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("", "a")
	_, another := ca.leaf("", "b")
	server := func(tls string) string {
		return serviceYAML("default", tlsHost, port80) + gatewayYAML("edge", "", "[{port: {number: 8443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {"+tls+"}}]")
	}
	simple := "mode: SIMPLE, credentialName: c"
	mutual := "mode: MUTUAL, credentialName: c"
	field := "spec.servers[0].tls.credentialName"
	for _, c := range []struct{ name, yaml, field, reason string }{
		{"no secret", server(simple), field, "there is no Secret c in namespace default"},
		{"other namespace", server(simple) + secretYAML("other", "c", "tls.crt", cert, "tls.key", key), field, "there is no Secret c in namespace default"},
		{"no key", server(simple) + secretYAML("default", "c", "tls.crt", cert), field, `neither "tls.crt" and "tls.key"`},
		{"empty key", server(simple) + secretYAML("default", "c", "tls.crt", cert, "tls.key", ""), field, "tls.key (empty)"},
		{"another's key", server(simple) + secretYAML("default", "c", "tls.crt", cert, "tls.key", another), field, "can't be served"},
		{"garbage", server(simple) + secretYAML("default", "c", "cert", "x", "key", "y"), field, "can't be served"},
		{"no anchors", server(mutual) + secretYAML("default", "c", "tls.crt", cert, "tls.key", key), field, `neither "ca.crt" nor "cacert"`},
		{"key for anchors", server(mutual) + secretYAML("default", "c", "tls.crt", cert, "tls.key", key, "ca.crt", key), field, "holds a PRIVATE KEY"},
		{"broken revocations", server(mutual) + secretYAML("default", "c", "tls.crt", cert, "tls.key", key, "ca.crt", ca.pem, "ca.crl", "x"), field, "holds no X509 CRL"},
		{"one of several", server("mode: SIMPLE, credentialNames: [c, d]") + secretYAML("default", "c", "tls.crt", cert, "tls.key", key), "spec.servers[0].tls.credentialNames", "no Secret d"},
		{"no identity", server("mode: ISTIO_MUTUAL"), "spec.servers[0].tls.mode", "the proxy has none"},
		{"no identity by name", server("mode: SIMPLE, credentialName: 'builtin://'"), field, "it has none"},
		{"suite", server(simple+", cipherSuites: [NULL-MD5]") + secretYAML("default", "c", "tls.crt", cert, "tls.key", key), "spec.servers[0].tls.cipherSuites", "not a cipher suite"},
		{"versions", server(simple+", minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2") + secretYAML("default", "c", "tls.crt", cert, "tls.key", key), "spec.servers[0].tls.minProtocolVersion", "no client"},
		{"rule", serviceYAML("default", tlsHost, port80) + tlsRule("trafficPolicy: {tls: {mode: MUTUAL, credentialName: c}}"), "spec.trafficPolicy.tls.credentialName", "there is no Secret c"},
		{"PROXY header", serviceYAML("default", tlsHost, port80) + tlsRule("trafficPolicy: {proxyProtocol: {version: V1}}"), "spec.trafficPolicy.proxyProtocol", "not supported yet by this build"},
		{"rule without identity", serviceYAML("default", tlsHost, port80) + tlsRule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"), "spec.trafficPolicy.tls.mode", "the proxy has none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, problems := Translate(load(t, c.yaml), Options{})
			if r != nil {
				t.Error("not refused")
			}
			wantProblem(t, problems, false, c.field+":", c.reason)
			for _, p := range problems {
				if p.Line == 0 || strings.Contains(p.String(), "PRIVATE KEY-----") {
					t.Errorf("problem %s", p)
				}
			}
		})
	}
}

// TestSecretNames: which object a credential names, and what the secret is called.
func TestSecretNames(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("", "a")
	pair := []string{"tls.crt", cert, "tls.key", key}
	configMap := "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: roots, namespace: default}\ndata:\n  ca.crt: |\n    " + strings.ReplaceAll(strings.TrimSpace(ca.pem), "\n", "\n    ") + "\n"
	for _, c := range []struct {
		name, tls, objects, namespace string
		want                          []string
	}{
		{"plain", "mode: SIMPLE, credentialName: c", secretYAML("default", "c", pair...), "default", []string{"kubernetes://c"}},
		{"twin", "mode: MUTUAL, credentialName: c", secretYAML("default", "c", pair...) + secretYAML("default", "c-cacert", "cacert", ca.pem), "default", []string{"kubernetes://c", "kubernetes://c-cacert"}},
		{"generic", "mode: MUTUAL, credentialName: c", secretYAML("default", "c", "cert", cert, "key", key, "cacert", ca.pem, "crl", ca.crl()), "default", []string{"kubernetes://c", "kubernetes://c-cacert"}},
		{"beside the gateway", "mode: SIMPLE, credentialName: c", secretYAML("default", "c", pair...), "elsewhere", []string{"kubernetes://default/c"}},
		{"the proxy's before", "mode: SIMPLE, credentialName: c", secretYAML("default", "c", pair...) + secretYAML("elsewhere", "c", pair...), "elsewhere", []string{"kubernetes://c"}},
		{"with namespace", "mode: SIMPLE, credentialName: 'kubernetes://other/c'", secretYAML("other", "c", pair...), "default", []string{"kubernetes://other/c"}},
		{"anchors of a ConfigMap", "mode: MUTUAL, credentialName: c, caCertCredentialName: 'configmap://default/roots'", secretYAML("default", "c", pair...) + configMap, "default", []string{"configmap://default/roots-cacert", "kubernetes://c"}},
		{"several", "mode: SIMPLE, credentialNames: [d, c]", secretYAML("default", "c", pair...) + secretYAML("default", "d", pair...), "default", []string{"kubernetes://c", "kubernetes://d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			yaml := serviceYAML("default", tlsHost, port80) + gatewayYAML("edge", "", "[{port: {number: 8443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {"+c.tls+"}}]") + c.objects
			r, problems := Translate(load(t, yaml), Options{Namespace: c.namespace})
			if r == nil {
				t.Fatalf("refused:\n%s", describe(problems))
			}
			var got []string
			for _, s := range r.Secrets {
				got = append(got, s.Name)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("secrets %v, want %v", got, c.want)
			}
			text, err := r.JSON()
			if err != nil {
				t.Fatal(err)
			}
			var dump struct {
				Secrets []struct {
					TLSCertificate struct {
						PrivateKey struct{ InlineBytes []byte }
					}
				}
			}
			if err := json.Unmarshal(text, &dump); err != nil {
				t.Fatal(err)
			}
			for i, s := range dump.Secrets {
				if r.Secrets[i].GetTlsCertificate() != nil && string(s.TLSCertificate.PrivateKey.InlineBytes) != "[redacted]" {
					t.Errorf("the dump shows a key: %s", s.TLSCertificate.PrivateKey.InlineBytes)
				}
			}
			if chain := r.Listeners[0].FilterChains[0]; chain.FilterChainMatch != nil || chain.TransportSocket == nil {
				t.Errorf("a server for all names has the chain %v", chain)
			}
		})
	}
}

// TestGatewayNames: a server name is one server's, whichever Gateway it is of.
func TestGatewayNames(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("", "a")
	yaml := serviceYAML("default", tlsHost, port80) + secretYAML("default", "c", "tls.crt", cert, "tls.key", key)
	one := func(name, hosts string) string {
		return gatewayYAML(name, "", "[{port: {number: 8443, name: https, protocol: HTTPS}, hosts: "+hosts+", tls: {mode: SIMPLE, credentialName: c}}]")
	}
	r, problems := Translate(load(t, yaml+one("one", "[b.example.com, ./a.example.com]")+one("two", "['*.example.com']")), Options{})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	chains := r.Listeners[0].FilterChains
	if len(chains) != 2 || !slices.Equal(chains[0].FilterChainMatch.ServerNames, []string{"a.example.com", "b.example.com"}) {
		t.Errorf("chains %v", chains)
	}
	wantProblem(t, problems, true, "Gateway/default/two: spec.servers[0].tls.credentialName", "spec.servers[0] of Gateway/default/one", "shows the same certificate")
	_, problems = Translate(load(t, yaml+one("one", "[a.example.com]")+one("two", "[a.example.com]")), Options{})
	wantProblem(t, problems, false, "Gateway/default/two: spec.servers[0].hosts", "served at port 8443 by Gateway/default/one")
}
