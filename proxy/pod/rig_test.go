// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pillion/proxy/stats"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// injectedEnv is the environment of an injected pod: that of the webhook's own
// output (istio.io/istio/pkg/kube/inject/testdata/inject/hello.yaml.injected)
// with values as the kubelet fills them in.
func injectedEnv() []string {
	return []string{
		"PILOT_CERT_PROVIDER=istiod",
		"CA_ADDR=istiod.istio-system.svc:15012",
		"POD_NAME=reviews-v1-6b7d5c9f4-x2x7p",
		"POD_NAMESPACE=bookinfo",
		"INSTANCE_IP=10.244.1.23",
		"SERVICE_ACCOUNT=bookinfo-reviews",
		"HOST_IP=172.18.0.3",
		"ISTIO_CPU_LIMIT=2",
		"PROXY_CONFIG={\"proxyMetadata\":{\"ISTIO_META_DNS_CAPTURE\":\"true\",\"MINIMUM_DRAIN_DURATION\":\"7s\"}}\n",
		"ISTIO_META_POD_PORTS=[\n    {\"name\":\"http\",\"containerPort\":9080,\"protocol\":\"TCP\"}\n    ,{\"containerPort\":9443,\"protocol\":\"TCP\"}\n]",
		"ISTIO_META_APP_CONTAINERS=reviews",
		"GOMEMLIMIT=1073741824",
		"GOMAXPROCS=2",
		"ISTIO_META_CLUSTER_ID=Kubernetes",
		"ISTIO_META_NODE_NAME=kind-worker",
		"ISTIO_META_INTERCEPTION_MODE=REDIRECT",
		"ISTIO_META_WORKLOAD_NAME=reviews-v1",
		"ISTIO_META_OWNER=kubernetes://apis/apps/v1/namespaces/bookinfo/deployments/reviews-v1",
		"ISTIO_META_MESH_ID=cluster.local",
		"TRUST_DOMAIN=cluster.local",
		"ISTIO_META_DNS_CAPTURE=true",
		"MINIMUM_DRAIN_DURATION=7s",
		`ISTIO_KUBE_APP_PROBERS={"/app-health/reviews/livez":{"httpGet":{"path":"/health","port":9080,"scheme":"HTTP"},"timeoutSeconds":2},"/app-health/reviews/readyz":{"tcpSocket":{"port":9080},"timeoutSeconds":1}}`,
		`ISTIO_PROMETHEUS_ANNOTATIONS={"scrape":"true","path":"/actuator","port":"9080"}`,
		"KUBERNETES_SERVICE_HOST=10.96.0.1",
		"PATH=/usr/local/bin",
	}
}

const (
	injectedLabels = `app="reviews"
pod-template-hash="6b7d5c9f4"
security.istio.io/tlsMode="istio"
service.istio.io/canonical-name="reviews"
service.istio.io/canonical-revision="v1"
topology.istio.io/locality="eu.west-1.a"
version="v1"
`
	injectedAnnotations = `istio.io/rev="default"
kubernetes.io/config.source="api"
prometheus.io/path="/stats/prometheus"
sidecar.istio.io/status="{\"initContainers\":[\"istio-init\"],\n\"revision\":\"default\"}"
`
)

// podRoot is a folder with the files of an injected pod.
func podRoot(t testing.TB, files ...string) string {
	t.Helper()
	root := t.TempDir()
	all := append([]string{
		"etc/istio/pod/labels", injectedLabels, "etc/istio/pod/annotations", injectedAnnotations,
		istiodRoot, "a root", tokenPath, "a token\n",
	}, files...)
	for i := 0; i < len(all); i += 2 {
		path := filepath.Join(root, all[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(all[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// with replaces variables of an environment; NAME alone takes one out.
func with(env []string, vars ...string) []string {
	out := append([]string{}, env...)
	for _, v := range vars {
		name, _, set := strings.Cut(v, "=")
		kept := out[:0]
		for _, e := range out {
			if !strings.HasPrefix(e, name+"=") {
				kept = append(kept, e)
			}
		}
		out = kept
		if set {
			out = append(out, v)
		}
	}
	return out
}

// eth0 is the interface of the pod.
func eth0() ([]Interface, error) {
	return []Interface{
		{"eth0", []netip.Addr{netip.MustParseAddr("10.244.1.23"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fd00:10:244::17")}},
		{"net1", []netip.Addr{netip.MustParseAddr("192.168.7.5")}},
	}, nil
}

func injected(t testing.TB) Input {
	return Input{Role: Sidecar, Environ: injectedEnv(), Root: podRoot(t), Domain: "bookinfo.svc.cluster.local", Interfaces: eth0, Version: "1.2.3"}
}

// fakeProxy is a proxy as the contract sees one.
type fakeProxy struct {
	mu       sync.Mutex
	health   Health      // guarded by mu
	drains   []bool      // inboundOnly of each drain; guarded by mu
	open     []int       // what ActiveConnections answers in turn; guarded by mu
	agent    AgentCounts // guarded by mu
	names    []byte      // guarded by mu
	queries  []string    // guarded by mu
	statsErr error
}

func healthy() Health {
	return Health{State: stats.StateLive, Clusters: Updates{1, 0}, Listeners: Updates{1, 0}}
}

func (f *fakeProxy) Health() Health {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.health
}

func (f *fakeProxy) WriteStats(w io.Writer, q stats.Query) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := ""
	if q.Filter != nil {
		text = q.Filter.String()
	}
	f.queries = append(f.queries, text)
	if f.statsErr != nil {
		return f.statsErr
	}
	_, err := io.WriteString(w, "# TYPE envoy_server_live gauge\nenvoy_server_live 1\n")
	return err
}

func (f *fakeProxy) BeginDrain(inboundOnly bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drains = append(f.drains, inboundOnly)
}

func (f *fakeProxy) ActiveConnections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.open) == 0 {
		return 0
	}
	n := f.open[0]
	f.open = f.open[1:]
	return n
}

func (f *fakeProxy) Agent() AgentCounts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.agent
}

func (f *fakeProxy) NameTable() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.names, nil
}
