// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pillion/test/lab/kube"
	"pillion/test/need"
	"pillion/test/rig"
)

// Sidecar is what the injector gives the container istio-proxy of a pod: its
// arguments, its environment, and, below Dir, the files that are mounted. A
// program that may take the place of Istio's is started with nothing else.
//
// One thing is not as in a cluster: pods share one file system here. Istio's
// own paths are relative, and the working directory is Dir where it is / in a
// container. proxyConfig holds fields of ProxyConfig, in JSON, that go before
// the lab's own.
func (p *Pod) Sidecar(l *Rig, proxyConfig string) Command {
	p.t.Helper()
	pod, err := l.Kube.Get("v1", "Pod", p.Spec.Namespace, p.Spec.Name)
	if err != nil {
		p.t.Fatal(err)
	}
	account := pod["spec"].(kube.Object)["serviceAccountName"].(string)
	istiod := ServerName + ":15012"
	config := map[string]any{"discoveryAddress": istiod, "terminationDrainDuration": "1s", "concurrency": 1}
	if err := json.Unmarshal([]byte(proxyConfig), &config); proxyConfig != "" && err != nil {
		p.t.Fatalf("ProxyConfig: %v", err)
	}
	text, err := json.Marshal(config)
	if err != nil {
		p.t.Fatal(err)
	}
	ports, err := json.Marshal(podPorts(pod))
	if err != nil {
		p.t.Fatal(err)
	}
	ns, app := p.Spec.Namespace, pod["metadata"].(kube.Object)["labels"].(kube.Object)["app"].(string)
	kind := "sidecar"
	if !p.Spec.Redirect {
		kind = "router"
	}
	return Command{
		Dir: p.mounts(l, pod, account),
		UID: ProxyUID,
		Args: []string{"proxy", kind, "--domain", ns + ".svc.cluster.local", "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error",
			"--log_output_level=default:info"},
		Env: []string{"PATH=" + os.Getenv("PATH"), "JWT_POLICY=third-party-jwt", "PILOT_CERT_PROVIDER=istiod", "CA_ADDR=" + istiod,
			"POD_NAME=" + p.Spec.Name, "POD_NAMESPACE=" + ns, "INSTANCE_IP=" + p.Spec.Addr.String(), "SERVICE_ACCOUNT=" + account, "HOST_IP=" + nodeAddr.String(),
			"ISTIO_CPU_LIMIT=1", "PROXY_CONFIG=" + string(text), "ISTIO_META_POD_PORTS=" + string(ports), "ISTIO_META_APP_CONTAINERS=app",
			"ISTIO_META_CLUSTER_ID=" + ClusterID, "ISTIO_META_NODE_NAME=node", "ISTIO_META_INTERCEPTION_MODE=REDIRECT",
			"ISTIO_META_WORKLOAD_NAME=" + p.Spec.Name, "ISTIO_META_OWNER=kubernetes://apis/apps/v1/namespaces/" + ns + "/deployments/" + p.Spec.Name,
			"ISTIO_META_MESH_ID=" + TrustDomain, "TRUST_DOMAIN=" + TrustDomain, "CANONICAL_SERVICE=" + app},
	}
}

// podPorts are the ports of the pod as it was before the injection.
func podPorts(pod kube.Object) []any {
	ports := []any{}
	containers, _ := pod["spec"].(kube.Object)["containers"].([]any)
	for _, c := range containers {
		if c.(kube.Object)["name"] == "istio-proxy" {
			continue
		}
		more, _ := c.(kube.Object)["ports"].([]any)
		ports = append(ports, more...)
	}
	return ports
}

// mounts makes the files of a pod, which the proxy's user may read, and returns
// the folder that stands for /.
func (p *Pod) mounts(l *Rig, pod kube.Object, account string) string {
	p.t.Helper()
	root, err := os.ReadFile(l.RootCert())
	if err != nil {
		p.t.Fatal(err)
	}
	token, err := l.Mint(p.Spec.Namespace, account, kube.TokenOptions{Audiences: []string{"istio-ca"}, Pod: p.Spec.Name})
	if err != nil {
		p.t.Fatal(err)
	}
	meta := pod["metadata"].(kube.Object)
	files := map[string]string{
		"var/run/secrets/tokens/istio-token":  token,
		"var/run/secrets/istio/root-cert.pem": string(root),
		"etc/istio/pod/labels":                downward(meta["labels"]),
		"etc/istio/pod/annotations":           downward(meta["annotations"]),
	}
	dir := TempDir(p.t)
	// The container's root is read-only. It may write where a volume of its
	// own is mounted.
	for _, empty := range []string{"etc/istio/proxy", "var/lib/istio/data", "var/run/secrets/workload-spiffe-uds", "var/run/secrets/workload-spiffe-credentials", "var/run/secrets/credential-uds"} {
		path := filepath.Join(dir, empty)
		err := os.MkdirAll(path, 0o755)
		if err == nil {
			err = os.Chown(path, ProxyUID, ProxyUID)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o444); err != nil {
			p.t.Fatal(err)
		}
	}
	return dir
}

// downward writes labels or annotations as Kubernetes' downward API does.
func downward(v any) string {
	all, _ := v.(kube.Object)
	var lines []string
	for k, text := range all {
		lines = append(lines, fmt.Sprintf("%s=%q\n", k, text))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// Published puts a file where every user may read and run it, and returns its
// new path: the caches of this user may be closed to others.
func Published(t testing.TB, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(TempDir(t), filepath.Base(path))
	if info, err := os.Stat(path); err == nil && info.Mode()&0o005 == 0o005 && os.Link(path, to) == nil {
		return to
	}
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.Copy(out, from); err == nil {
		err = out.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// EnvoyAgent is a real Envoy with Istio's own agent, as they run in a pod.
type EnvoyAgent struct{ agent, envoy, template string }

// NewEnvoyAgent finds the programs.
func NewEnvoyAgent(t testing.TB) *EnvoyAgent {
	t.Helper()
	agent := AgentProgram(t)
	template := filepath.Join(filepath.Dir(agent), "envoy_bootstrap.json")
	need.Lab(t, template)
	return &EnvoyAgent{Published(t, agent), Published(t, need.Envoy(t)), Published(t, template)}
}

// Start runs it in a pod, with fields of ProxyConfig as Sidecar's. It returns before it
// is ready; see WaitInStep.
func (e *EnvoyAgent) Start(l *Rig, p *Pod, proxyConfig string) *Running {
	p.t.Helper()
	config := map[string]any{}
	if err := json.Unmarshal([]byte(proxyConfig), &config); err != nil {
		p.t.Fatalf("ProxyConfig: %v", err)
	}
	config["binaryPath"] = e.envoy
	text, err := json.Marshal(config)
	if err != nil {
		p.t.Fatal(err)
	}
	c := p.Sidecar(l, string(text))
	c.Path, c.Args = e.agent, append(c.Args, "--templateFile", e.template)
	return p.Run(c)
}

// WaitInStep waits until istiod says that a pod's proxy has taken all that it
// was sent.
func (r *Rig) WaitInStep(pods ...*Pod) {
	r.t.Helper()
	// Many proxies start at once.
	rig.UntilWithin(r.t, 3*rig.Patience, "the proxies are in step with istiod", func() error {
		all, err := r.Lab.Syncz()
		if err != nil {
			return err
		}
		for _, p := range pods {
			name := p.Spec.Name + "." + p.Spec.Namespace
			if s, there := all[name]; !there || !s.InStep() {
				return fmt.Errorf("%s: connected: %v: %+v", name, there, s)
			}
		}
		return nil
	})
}
