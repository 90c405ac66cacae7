// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	mesh "istio.io/api/mesh/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestInjectedNode holds what istiod is told by a pod as the webhook makes it.
func TestInjectedNode(t *testing.T) {
	p, err := Read(injected(t))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := protojson.Marshal(p.Node)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	golden := filepath.Join("testdata", "node.json")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(got.Bytes(), &a) != nil || json.Unmarshal(want, &b) != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("the node is\n%s", got.String())
	}
}

// TestInjectedPod holds the rest of it.
func TestInjectedPod(t *testing.T) {
	in := injected(t)
	p, err := Read(in)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(in.Root, name) }
	if want := (Ports{Admin: 15000, Status: 15020, Probe: 15021, Metrics: 15090}); p.Ports != want {
		t.Errorf("ports %+v", p.Ports)
	}
	if want := (DrainSettings{Termination: 5 * time.Second, Minimum: 7 * time.Second, Duration: 45 * time.Second}); p.Drain != want {
		t.Errorf("drain %+v", p.Drain)
	}
	wantDiscovery := Discovery{Address: "istiod.istio-system.svc:15012", RootFile: at(istiodRoot), ServerName: "istiod.istio-system.svc",
		TokenFile: at(tokenPath), Headers: map[string]string{}}
	if !reflect.DeepEqual(p.Discovery, wantDiscovery) {
		t.Errorf("discovery %+v", p.Discovery)
	}
	wantIdentity := Identity{SocketDir: at(identitySocket), SocketFile: "socket", CredentialDirs: []string{at(workloadCerts), at("etc/certs")},
		CA: "istiod.istio-system.svc:15012", Request: Request{ID: "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews", RootFile: at(istiodRoot),
			TokenFile: at(tokenPath), Headers: map[string]string{}, RSABits: 2048, TTL: 24 * time.Hour, GraceRatio: 0.5, GraceJitter: 0.01}}
	if !reflect.DeepEqual(p.Identity, wantIdentity) {
		t.Errorf("identity %+v", p.Identity)
	}
	if p.Workers != 2 || !p.NameTable || !p.MergeStats || len(p.Probes.ByPath) != 2 || p.Probes.Host != "10.244.1.23" || p.Probes.Source.String() != "127.0.0.6" {
		t.Errorf("workers %d, name table %v, merge %v, probes %+v", p.Workers, p.NameTable, p.MergeStats, p.Probes)
	}
	if p.Scrape == nil || !slices.Equal(p.Scrape.Targets, []Target{{9080, "/actuator"}}) {
		t.Errorf("scrape %+v", p.Scrape)
	}
	if len(p.Warnings) > 0 {
		t.Errorf("warnings for an ordinary pod: %q", p.Warnings)
	}
}

// TestVariables changes one thing of the injected pod at a time.
func TestVariables(t *testing.T) {
	meta := func(key string) func(*Pod) any {
		return func(p *Pod) any { return p.Node.GetMetadata().AsMap()[key] }
	}
	for _, c := range []struct {
		name string
		vars []string
		get  func(*Pod) any
		want any
	}{
		{"plaintext", []string{`PROXY_CONFIG={controlPlaneAuthPolicy: NONE, discoveryAddress: "istiod:15010"}`}, func(p *Pod) any { return p.Discovery.Plaintext }, true},
		{"no SAN in plaintext", []string{`PROXY_CONFIG={controlPlaneAuthPolicy: NONE, discoveryAddress: "istiod:15010"}`}, meta("PILOT_SAN"), nil},
		{"localhost's name", []string{`PROXY_CONFIG={discoveryAddress: "localhost:15012"}`}, func(p *Pod) any { return p.Discovery.ServerName }, "istiod.istio-system.svc"},
		{"ISTIOD_SAN", []string{"ISTIOD_SAN=istiod.example"}, func(p *Pod) any { return p.Discovery.ServerName }, "istiod.example"},
		{"the CA has its own name", []string{"ISTIOD_SAN=istiod.example"}, func(p *Pod) any { return p.Identity.Request.ServerName }, ""},
		{"the CA is istiod", []string{"CA_ADDR"}, func(p *Pod) any { return p.Identity.CA }, "istiod.istio-system.svc:15012"},
		{"the CA in the clear", []string{"CA_ADDR=ca:15010"}, func(p *Pod) any { return p.Identity.Request.RootFile }, ""},
		{"system roots", []string{"XDS_ROOT_CA=SYSTEM"}, func(p *Pod) any { return p.Discovery.RootFile }, ""},
		{"system roots of the CA", []string{"CA_ROOT_CA=SYSTEM"}, func(p *Pod) any { return p.Identity.Request.RootFile }, ""},
		{"headers", []string{"XDS_HEADER_x-a=1", "XDS_HEADER_=2"}, func(p *Pod) any { return p.Discovery.Headers["x-a"] }, "1"},
		{"headers of the CA", []string{"CA_HEADER_x-b=2"}, func(p *Pod) any { return p.Identity.Request.Headers["x-b"] }, "2"},
		{"state of the world", []string{"ISTIO_DELTA_XDS=false"}, func(p *Pod) any { return p.Discovery.StateOfTheWorld }, true},
		{"ECDSA", []string{"ECC_SIGNATURE_ALGORITHM=ECDSA"}, func(p *Pod) any { return p.Identity.Request.ECDSA }, "P256"},
		{"ECDSA P384", []string{"ECC_SIGNATURE_ALGORITHM=ECDSA", "ECC_CURVE=P384"}, func(p *Pod) any { return p.Identity.Request.ECDSA }, "P384"},
		{"a curve without ECDSA", []string{"ECC_CURVE=P384"}, func(p *Pod) any { return p.Identity.Request.ECDSA }, ""},
		{"RSA 4096", []string{"WORKLOAD_RSA_KEY_SIZE=4096"}, func(p *Pod) any { return p.Identity.Request.RSABits }, 4096},
		{"life", []string{"SECRET_TTL=1h"}, func(p *Pod) any { return p.Identity.Request.TTL }, time.Hour},
		{"grace", []string{"SECRET_GRACE_PERIOD_RATIO=0.2"}, func(p *Pod) any { return p.Identity.Request.GraceRatio }, 0.2},
		{"files alone", []string{"FILE_MOUNTED_CERTS=true", "XDS_ROOT_CA=" + istiodRoot}, func(p *Pod) any { return p.Identity.CA }, ""},
		{"GKE's files", []string{"CA_PROVIDER=GkeWorkloadCertificate"}, func(p *Pod) any { return p.Identity.CA }, ""},
		{"trust domain", []string{"TRUST_DOMAIN=td.example"}, func(p *Pod) any { return p.Identity.Request.ID }, "spiffe://td.example/ns/bookinfo/sa/bookinfo-reviews"},
		{"ports", []string{"ENVOY_STATUS_PORT=20021", "ENVOY_PROMETHEUS_PORT=20090", "METRICS_LOCALHOST_ACCESS_ONLY=1"}, func(p *Pod) any { return p.Ports },
			Ports{Admin: 15000, Status: 15020, Probe: 20021, Metrics: 20090, LocalMetrics: true}},
		{"ports in the node", []string{"ENVOY_STATUS_PORT=20021"}, meta("ENVOY_STATUS_PORT"), 20021.0},
		{"no status port", []string{"PROXY_CONFIG={statusPort: 0}"}, func(p *Pod) any { return p.Ports.Status }, 0},
		{"concurrency", []string{"PROXY_CONFIG={concurrency: 4}"}, func(p *Pod) any { return p.Workers }, 4},
		{"all processors", []string{"PROXY_CONFIG={concurrency: 0}"}, func(p *Pod) any { return p.Workers }, 0},
		{"no limit", []string{"ISTIO_CPU_LIMIT"}, func(p *Pod) any { return p.Workers }, 0},
		{"an empty value", []string{"ISTIO_CPU_LIMIT=", "EXIT_ON_ZERO_ACTIVE_CONNECTIONS="}, func(p *Pod) any { return p.Workers }, 0},
		{"exit at zero", []string{"EXIT_ON_ZERO_ACTIVE_CONNECTIONS=T"}, func(p *Pod) any { return p.Drain.ExitAtZero }, true},
		{"exit at zero in the node", []string{"EXIT_ON_ZERO_ACTIVE_CONNECTIONS=T"}, meta("EXIT_ON_ZERO_ACTIVE_CONNECTIONS"), "true"},
		{"proxyMetadata is environment", []string{`PROXY_CONFIG={proxyMetadata: {EXIT_ON_ZERO_ACTIVE_CONNECTIONS: "true"}}`}, func(p *Pod) any { return p.Drain.ExitAtZero }, true},
		{"the environment goes first", []string{`PROXY_CONFIG={proxyMetadata: {ISTIO_META_NETWORK: a}}`, "ISTIO_META_NETWORK=b"}, meta("NETWORK"), "b"},
		{"a version by hand", []string{"ISTIO_META_ISTIO_VERSION=1.28.3"}, meta("ISTIO_VERSION"), "1.28.3"},
		{"JSON metadata", []string{`ISTIO_METAJSON_ANY={"ONE":"1","TWO":{"x":[2]}}`}, meta("TWO"), map[string]any{"x": []any{2.0}}},
		{"static labels", []string{`ISTIO_METAJSON_LABELS={"app":"other","zone":"z"}`}, meta("STATIC_LABELS"), map[string]any{"app": "other", "zone": "z"}},
		{"booleans", []string{"ISTIO_META_DNS_AUTO_ALLOCATE=1"}, meta("DNS_AUTO_ALLOCATE"), "true"},
		{"HBONE isn't offered", []string{"ISTIO_META_ENABLE_HBONE=true"}, meta("ENABLE_HBONE"), nil},
		{"localhost for probes", []string{"REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION=true"}, func(p *Pod) any { return p.Probes.Host }, "localhost"},
		{"IPv6", []string{"INSTANCE_IP=fd00::1"}, func(p *Pod) any { return p.Probes.Source.String() }, "::6"},
		{"id with IPv6", []string{"INSTANCE_IP=fd00::1"}, func(p *Pod) any { return p.Node.GetId() }, "sidecar~fd00::1~reviews-v1-6b7d5c9f4-x2x7p.bookinfo~bookinfo.svc.cluster.local"},
		{"no address but of interfaces", []string{"INSTANCE_IP"}, func(p *Pod) any { return strings.Join(p.IPs, " ") }, "10.244.1.23 fd00:10:244::17 192.168.7.5"},
		{"no merged metrics", []string{`ISTIO_PROMETHEUS_ANNOTATIONS={"scrape":"false"}`}, func(p *Pod) any { return p.Scrape == nil }, true},
		{"cluster by name", []string{"PROXY_CONFIG={serviceCluster: shop}"}, func(p *Pod) any { return p.Node.GetCluster() }, "shop"},
		{"cluster by canonical name", []string{"PROXY_CONFIG={tracingServiceName: CANONICAL_NAME_ONLY}"}, func(p *Pod) any { return p.Node.GetCluster() }, "reviews"},
		{"cluster by canonical name and namespace", []string{"PROXY_CONFIG={tracingServiceName: CANONICAL_NAME_AND_NAMESPACE}"}, func(p *Pod) any { return p.Node.GetCluster() }, "reviews.bookinfo"},
		{"cluster by app", []string{"PROXY_CONFIG={tracingServiceName: APP_LABEL_AND_NAMESPACE}"}, func(p *Pod) any { return p.Node.GetCluster() }, "reviews.bookinfo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := injected(t)
			in.Environ = with(in.Environ, c.vars...)
			p, err := Read(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.get(p); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestRefused: what can't be used is named with its place, reason and remedy,
// and all at once.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		vars []string
		want []string // parts of the error
	}{
		{[]string{"POD_NAME", "POD_NAMESPACE"}, []string{"POD_NAME: isn't set; the webhook", "POD_NAMESPACE: isn't set"}},
		{[]string{"POD_NAME=a~b"}, []string{`POD_NAME: "a~b": is no name`}},
		{[]string{`PROXY_CONFIG={"tracing": {"zipkin": {"address": "zipkin"}}}`}, []string{`tracing.zipkin.address: "zipkin": is not HOST:PORT; give it as zipkin.istio-system:9411`}},
		{[]string{`PROXY_CONFIG={"tracing": {"zipkin": {"address": "a:65536"}}}`}, []string{"has no port from 1 to 65535"}},
		{[]string{"INSTANCE_IP=localhost"}, []string{`INSTANCE_IP: "localhost": is no address; the webhook takes it from status.podIP`}},
		{[]string{"ISTIO_CPU_LIMIT=two"}, []string{`ISTIO_CPU_LIMIT: "two": is not a whole number of 0 or more; set it so, or leave it out for 0`}},
		{[]string{"ENVOY_STATUS_PORT=0"}, []string{`ENVOY_STATUS_PORT: "0": is not a port, 1 to 65535; set it so, or leave it out for 15021`}},
		{[]string{"ENVOY_PROMETHEUS_PORT=15021"}, []string{"is the port of ENVOY_STATUS_PORT too"}},
		{[]string{"PROXY_CONFIG={statusPort: 70000}"}, []string{`ProxyConfig: statusPort: "70000": is not a port`}},
		{[]string{"PROXY_CONFIG={statusPort: x}"}, []string{"PROXY_CONFIG: is no ProxyConfig: ", "statusPort"}},
		{[]string{"PROXY_CONFIG=[1]"}, []string{"PROXY_CONFIG: is no object of settings"}},
		{[]string{"PROXY_CONFIG={a: b: c}"}, []string{"PROXY_CONFIG: is no YAML"}},
		{[]string{"PROXY_CONFIG={discoveryAddress: istiod}"}, []string{`discoveryAddress: "istiod": is not HOST:PORT; give it as`}},
		{[]string{"PROXY_CONFIG={concurrency: -1}"}, []string{"concurrency"}},
		{[]string{"PROXY_CONFIG={terminationDrainDuration: -1s}"}, []string{"terminationDrainDuration", "is below 0"}},
		{[]string{"CA_ADDR=ca"}, []string{`CA_ADDR: "ca": is not HOST:PORT`}},
		{[]string{"CA_ADDR=ca:99999"}, []string{`CA_ADDR: "ca:99999": has no port from 1 to 65535`}},
		{[]string{"CA_PROVIDER=GoogleCA"}, []string{`CA_PROVIDER: "GoogleCA": is not supported`}},
		{[]string{"CA_PROVIDER=Vault"}, []string{`CA_PROVIDER: "Vault": is not one of Citadel`}},
		{[]string{"XDS_AUTH_PROVIDER=gcp"}, []string{`XDS_AUTH_PROVIDER: "gcp": is not supported`}},
		{[]string{"XDS_ROOT_CA=/none.pem"}, []string{"none.pem: isn't there", "XDS_ROOT_CA names it"}},
		{[]string{"PILOT_CERT_PROVIDER=none"}, []string{`PILOT_CERT_PROVIDER: "none": names no root`, "XDS_ROOT_CA", "CA_ROOT_CA"}},
		{[]string{"FILE_MOUNTED_CERTS=true"}, []string{"FILE_MOUNTED_CERTS: \"true\": needs ISTIO_META_TLS_CLIENT_ROOT_CERT"}},
		{[]string{"PROV_CERT=/x", "FILE_MOUNTED_CERTS=1"}, []string{"exclude each other"}},
		{[]string{"WORKLOAD_RSA_KEY_SIZE=1024"}, []string{`WORKLOAD_RSA_KEY_SIZE: "1024": is not 2048, 3072 or 4096`}},
		{[]string{"ECC_SIGNATURE_ALGORITHM=ED25519"}, []string{"ECC_SIGNATURE_ALGORITHM", "is not one of ECDSA"}},
		{[]string{"ECC_SIGNATURE_ALGORITHM=ECDSA", "ECC_CURVE=P521"}, []string{"ECC_CURVE", "is not one of P256, P384"}},
		{[]string{"SECRET_TTL=1d"}, []string{`SECRET_TTL: "1d": is not a time such as 5s; set it so, or leave it out for 24h0m0s`}},
		{[]string{"SECRET_GRACE_PERIOD_RATIO=2"}, []string{"is not a number between 0 and 1"}},
		{[]string{"SECRET_GRACE_PERIOD_RATIO=NaN"}, []string{"is not a number between 0 and 1"}},
		{[]string{"EXIT_ON_ZERO_ACTIVE_CONNECTIONS=yes"}, []string{`"yes": is not true or false`}},
		{[]string{"WORKLOAD_IDENTITY_SOCKET_FILE=../x"}, []string{"is not the name of a file"}},
		{[]string{"CREDENTIAL_FETCHER_TYPE=GoogleComputeEngine"}, []string{"CREDENTIAL_FETCHER_TYPE", "is not supported"}},
		{[]string{"ISTIO_META_DNS_CAPTURE=on"}, []string{`ISTIO_META_DNS_CAPTURE: "on": is not true or false`}},
		{[]string{"ISTIO_META_POD_PORTS=9080"}, []string{"ISTIO_META_POD_PORTS", "is no JSON list of ports"}},
		{[]string{`ISTIO_META_POD_PORTS=[{"containerPort":0}]`}, []string{"containerPort that is no port"}},
		{[]string{"ISTIO_METAJSON_X=[]"}, []string{`ISTIO_METAJSON_X: "[]": is no JSON object; write it as`}},
		{[]string{`ISTIO_METAJSON_LABELS={"a":1}`}, []string{`has the label "a" that is no text`}},
		{[]string{"ISTIO_KUBE_APP_PROBERS={"}, []string{"ISTIO_KUBE_APP_PROBERS", "is no JSON object of probes", "the webhook makes it"}},
		{[]string{"ISTIO_PROMETHEUS_ANNOTATIONS=x"}, []string{"ISTIO_PROMETHEUS_ANNOTATIONS", "is no JSON object"}},
		{[]string{"ISTIO_META_X=\xff"}, []string{"the node's metadata", "UTF-8"}},
	} {
		in := injected(t)
		in.Environ = with(in.Environ, c.vars...)
		p, err := Read(in)
		if err == nil {
			t.Errorf("%q is taken: %+v", c.vars, p)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: the error lacks %q:\n%v", c.vars, want, err)
			}
		}
	}
}

// TestFiles changes the files instead.
func TestFiles(t *testing.T) {
	read := func(t *testing.T, files ...string) (*Pod, error) {
		in := injected(t)
		in.Root = podRoot(t, files...)
		return Read(in)
	}
	t.Run("annotations over PROXY_CONFIG over mesh", func(t *testing.T) {
		p, err := read(t, "etc/istio/config/mesh", "defaultConfig:\n  proxyAdminPort: 1\n  statusPort: 2\n  discoveryAddress: mesh:1\n  proxyMetadata: {A: mesh, B: mesh}\ntrustDomain: x\n",
			"etc/istio/pod/annotations", `proxy.istio.io/config="statusPort: 3\nproxyMetadata: {B: annotation, ISTIO_META_DNS_CAPTURE: \"false\"}"`+"\n"+
				`sidecar.istio.io/discoveryAddress="annotated:15012"`+"\n"+`status.sidecar.istio.io/port="4"`+"\n"+
				`traffic.sidecar.istio.io/excludeInterfaces="net1, net2"`)
		if err != nil {
			t.Fatal(err)
		}
		if p.Ports.Admin != 1 || p.Ports.Status != 4 || p.Discovery.Address != "annotated:15012" {
			t.Errorf("ports %+v, discovery %+v", p.Ports, p.Discovery)
		}
		want := map[string]string{"A": "mesh", "B": "annotation", "ISTIO_META_DNS_CAPTURE": "false", "MINIMUM_DRAIN_DURATION": "7s"}
		if got := p.Config.GetProxyMetadata(); !maps.Equal(got, want) {
			t.Errorf("proxyMetadata %v", got)
		}
		if got := strings.Join(p.IPs, " "); got != "10.244.1.23 fd00:10:244::17" {
			t.Errorf("addresses %s", got)
		}
	})
	t.Run("none at all", func(t *testing.T) {
		in := injected(t)
		in.Root = t.TempDir()
		_, err := Read(in)
		if err == nil || strings.Count(err.Error(), istiodRoot+": isn't there") != 1 || !strings.Contains(err.Error(), "istio-ca-root-cert") {
			t.Errorf("without the root of istiod: %v", err)
		}
	})
	t.Run("the older root", func(t *testing.T) {
		p, err := read(t, legacyRoot, "x")
		if err != nil || !strings.HasSuffix(p.Discovery.RootFile, legacyRoot) {
			t.Errorf("%+v, %v", p, err)
		}
	})
	for name, files := range map[string][]string{
		"labels":      {"etc/istio/pod/labels", "app=reviews\n"},
		"annotations": {"etc/istio/pod/annotations", "nothing"},
		"is no MeshC": {"etc/istio/config/mesh", "defaultConfig: [1]"},
		"discoveryA":  {"etc/istio/config/mesh", "defaultConfig: {discoveryAddress: 1}"},
		"is not a po": {"etc/istio/pod/annotations", `status.sidecar.istio.io/port="x"`},
	} {
		if _, err := read(t, files...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v doesn't name %q", files, err, name)
		}
	}
}

// TestZipkin: the tracer that Istio's agent would put into the bootstrap.
func TestZipkin(t *testing.T) {
	for _, c := range []struct {
		config, hostIP string
		want           *Zipkin
		warning        string
	}{
		{`{}`, "", nil, ""},
		{`{"tracing": {"sampling": 5}}`, "", nil, ""},
		{`{"tracing": {"zipkin": {"address": "zipkin.istio-system:9411"}}}`, "", &Zipkin{"zipkin.istio-system", 9411}, ""},
		{`{"tracing": {"zipkin": {"address": "[fd00::1]:65535"}, "tlsSettings": {"mode": "DISABLE"}}}`, "", &Zipkin{"fd00::1", 65535}, ""},
		{`{"tracing": {"zipkin": {"address": "$(HOST_IP):9411"}}}`, "10.1.2.3", &Zipkin{"10.1.2.3", 9411}, ""},
		{`{"tracing": {"zipkin": {"address": "$(HOST_IP):9411"}}}`, "", nil, "tracing.zipkin.address=$(HOST_IP):9411: HOST_IP isn't set"},
		{`{"tracing": {"zipkin": {"address": "z:9411"}, "tlsSettings": {"mode": "SIMPLE"}}}`, "", nil, "tracing.tlsSettings of mode SIMPLE is not supported"},
		{`{"tracing": {"datadog": {"address": "$(HOST_IP):8126"}}}`, "", nil, "tracing.datadog is not supported"},
		{`{"tracing": {"stackdriver": {}}}`, "", nil, "tracing.stackdriver is not supported"},
		{`{"tracing": {"openCensusAgent": {"address": "a:1"}}}`, "", nil, "tracing.openCensusAgent is not supported"},
	} {
		in := injected(t)
		in.Environ = with(in.Environ, "PROXY_CONFIG="+c.config, "HOST_IP="+c.hostIP)
		p, err := Read(in)
		if err != nil {
			t.Errorf("%s: %v", c.config, err)
			continue
		}
		if !reflect.DeepEqual(p.Zipkin, c.want) {
			t.Errorf("%s: %+v, not %+v", c.config, p.Zipkin, c.want)
		}
		said := strings.Join(p.Warnings, "\n")
		if !strings.Contains(said, c.warning) || c.warning == "" && strings.Contains(said, "tracing") {
			t.Errorf("%s: warnings %q, not %q", c.config, said, c.warning)
		}
	}
}

// TestWarnings: what is asked for and isn't done is named.
func TestWarnings(t *testing.T) {
	in := injected(t)
	in.Environ = with(in.Environ, "ENVOY_SECURE_METRICS_PORT=15091", "PEER_METADATA_DISCOVERY=true", "ISTIO_META_ENABLE_HBONE=1", "PROV_CERT=/x", "SERVICE_ACCOUNT",
		"JWT_POLICY=first-party-jwt", "ISTIO_BOOTSTRAP_OVERRIDE=/etc/x", "PROXY_CONFIG_XDS_AGENT=true", `PROXY_CONFIG={"notYetInvented":1}`)
	p, err := Read(in)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(p.Warnings, "\n")
	for _, name := range []string{"ENVOY_SECURE_METRICS_PORT=15091", "PEER_METADATA_DISCOVERY", "ENABLE_HBONE", "PROV_CERT", "SERVICE_ACCOUNT", "JWT_POLICY",
		"ISTIO_BOOTSTRAP_OVERRIDE", "PROXY_CONFIG_XDS_AGENT", "notYetInvented"} {
		if !strings.Contains(all, name) {
			t.Errorf("no warning names %s:\n%s", name, all)
		}
	}
}

func TestRouter(t *testing.T) {
	in := injected(t)
	in.Role = Router
	p, err := Read(in)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(p.Node.GetId(), "router~") || p.Scrape != nil {
		t.Errorf("node %s, scrape %v: a gateway merges nothing", p.Node.GetId(), p.Scrape)
	}
}

// TestMergeProxyConfig holds Istio's rule: by replacement, but for two maps.
func TestMergeProxyConfig(t *testing.T) {
	pc := defaultProxyConfig()
	for _, text := range []string{
		"{statusPort: 1, extraStatTags: [a, b], tracing: {sampling: 5, zipkin: {address: 'z:1'}}, proxyHeaders: {server: {disabled: true}}}",
		`{"stat_name_length": 0, "extraStatTags": ["c"], "tracing": {"sampling": 7}, "proxyHeaders": {"attemptCount": {"disabled": true}}, "drainDuration": null, "odd": 1}`,
	} {
		unknown, err := mergeProxyConfig(pc, text)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, "odd") != slices.Equal(unknown, []string{"odd"}) {
			t.Errorf("unknown fields %q", unknown)
		}
	}
	if pc.GetStatusPort() != 1 || pc.GetStatNameLength() != 0 || !slices.Equal(pc.GetExtraStatTags(), []string{"c"}) ||
		pc.GetTracing().GetSampling() != 7 || pc.GetTracing().GetZipkin() != nil || pc.GetDrainDuration().GetSeconds() != 45 {
		t.Errorf("merged: %v", pc)
	}
	if h := pc.GetProxyHeaders(); !h.GetServer().GetDisabled().GetValue() || !h.GetAttemptCount().GetDisabled().GetValue() {
		t.Errorf("headers: %v", h)
	}
	if _, err := mergeProxyConfig(&mesh.ProxyConfig{}, "text"); err == nil {
		t.Error("a text is taken for settings")
	}
}

func TestParseInfo(t *testing.T) {
	got, err := parseInfo("a=\"1\"\n\nb/c=\"x=\\\"y\\\"\\n\"\n")
	if err != nil || !maps.Equal(got, map[string]string{"a": "1", "b/c": "x=\"y\"\n"}) {
		t.Errorf("%q, %v", got, err)
	}
	for text, line := range map[string]string{"a": "line 1", "a=\"1\"\n=\"2\"": "line 2", "a=1": "line 1", "a=\"": "line 1"} {
		if _, err := parseInfo(text); err == nil || !strings.Contains(err.Error(), line) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{"statusPort":15020}`, `{"/app-health/a/livez":{"tcpSocket":{"port":1}}}`, `{"port":"80"}`, "a=\"b\"\n", `[{"containerPort":1}]`, `{"a":"b"}`)
	f.Add("concurrency: 2", `{"/app-health/a/livez":null}`, `{"targets":[{"port":"1"}]}`, "proxy.istio.io/config=\"{}\"", "", "{}")
	root := podRoot(f)
	f.Fuzz(func(t *testing.T, config, probers, scrape, annotations, ports, metadata string) {
		in := Input{Role: Sidecar, Root: root, Interfaces: eth0, Environ: with(injectedEnv(), "PROXY_CONFIG="+config, "ISTIO_KUBE_APP_PROBERS="+probers,
			"ISTIO_PROMETHEUS_ANNOTATIONS="+scrape, "ISTIO_META_POD_PORTS="+ports, "ISTIO_METAJSON_X="+metadata)}
		if err := os.WriteFile(filepath.Join(root, "etc/istio/pod/annotations"), []byte(annotations), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := Read(in)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v, %v", p, err)
		}
	})
}
