// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"

	"pillion/test/rig"
)

const fetchTimeout = 20 * time.Second

// ownMesh is the lab's MeshConfig: Istio's default profile, with an access
// log, and without the tracing that has nowhere to go.
const ownMesh = `
rootNamespace: istio-system
trustDomain: ` + TrustDomain + `
enablePrometheusMerge: true
accessLogFile: /dev/stdout
defaultProviders: {metrics: [prometheus]}
defaultConfig: {discoveryAddress: istiod.istio-system.svc:15012}
`

// safeMesh and safeEnv take away what only Istio's build of Envoy knows.
const safeMesh = "defaultProviders: {metrics: []}\n"

var safeEnv = []string{"PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_ALPN_FILTER=false", "PILOT_DISABLE_MX_ALPN=true"}

// meshConfig returns the MeshConfig of a flavour, with the fields of more put
// before it.
func meshConfig(f Flavour, more string) ([]byte, error) {
	layers := []string{ownMesh}
	switch f {
	case Full:
	case Safe:
		layers = append(layers, safeMesh)
	default:
		return nil, fmt.Errorf("there is no flavour %q: it is %q or %q", f, Full, Safe)
	}
	all := map[string]any{}
	for _, text := range append(layers, more) {
		var fields map[string]any
		if err := yaml.Unmarshal([]byte(text), &fields); err != nil {
			return nil, fmt.Errorf("the mesh's configuration: %w", err)
		}
		maps.Copy(all, fields)
	}
	return yaml.Marshal(all)
}

// prepare writes the files that istiod reads.
func (l *Lab) prepare() error {
	ca := filepath.Join(l.dir, "ca")
	if err := os.MkdirAll(ca, 0o755); err != nil {
		return err
	}
	if err := writeCA(ca); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(l.dir, "mesh.yaml"), l.mesh, 0o644); err != nil {
		return err
	}
	kubeconfig := fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: lab, clusters: [{name: lab, cluster: {server: %q}}], "+
		"users: [{name: lab, user: {}}], contexts: [{name: lab, context: {cluster: lab, user: lab}}]}\n", l.kubeURL)
	return os.WriteFile(l.KubeConfig(), []byte(kubeconfig), 0o644)
}

// Kill ends istiod by SIGKILL, as a node that is lost does. The API goes on.
func (l *Lab) Kill() {
	if l.istiod != nil {
		l.istiod.kill()
	}
}

// Restart ends istiod if it runs, starts it with the same addresses, and
// returns when it is ready.
func (l *Lab) Restart() error {
	l.Kill()
	// Without --ctrlz_port 0 two labs would meet on its port.
	args := []string{"discovery", "--registries=Kubernetes", "--kubeconfig", l.KubeConfig(), "--clusterID", ClusterID,
		"--meshConfig", filepath.Join(l.dir, "mesh.yaml"), "--networksConfig", filepath.Join(l.dir, "no-networks.yaml"),
		"--httpAddr", l.Ports.HTTP, "--httpsAddr", l.Ports.Webhooks, "--grpcAddr", l.Ports.XDS, "--secureGRPCAddr", l.Ports.Secure,
		"--monitoringAddr", l.Ports.Monitoring, "--ctrlz_address", "127.0.0.1", "--ctrlz_port", "0"}
	// The default of ISTIO_KUBE_CLIENT_CONTENT_TYPE is protobuf, which the API
	// doesn't speak. There is one istiod, and no controller of deployments.
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir, "POD_NAMESPACE=istio-system", "POD_NAME=istiod-lab", "CLUSTER_ID=" + ClusterID,
		"ROOT_CA_DIR=" + filepath.Join(l.dir, "ca"), "ENABLE_LEADER_ELECTION=false", "ISTIO_KUBE_CLIENT_CONTENT_TYPE=json",
		"PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER=false"}
	if l.o.Flavour == Safe {
		env = append(env, safeEnv...)
	}
	var err error
	l.istiod, err = start(command{host: l.o.Host, path: l.program, args: args, dir: l.dir, env: append(env, l.o.Env...), log: l.LogFile()})
	if err != nil {
		return err
	}
	err = rig.Await(func() error {
		if l.istiod.exited() {
			return nil
		}
		_, err := l.Fetch("/ready")
		return err
	})
	if l.istiod.exited() {
		err = errors.New("it ended")
	}
	if err != nil {
		return fmt.Errorf("istiod isn't ready: %w; its log is %s:\n%s", err, l.LogFile(), tail(l.LogFile()))
	}
	return nil
}

// LogFile is the path of what istiod prints.
func (l *Lab) LogFile() string { return filepath.Join(l.dir, "istiod.log") }

// PID is istiod's process id.
func (l *Lab) PID() int { return l.istiod.cmd.Process.Pid }

// SyncStatus is what istiod knows of one proxy, from /debug/syncz.
type SyncStatus struct {
	Proxy string `json:"proxy"` // NAME.NAMESPACE
	Type  string `json:"proxy_type"`
	// The nonces of the last responses sent and acknowledged. Those of a proxy
	// that is in step are the same.
	ClusterSent   string `json:"cluster_sent"`
	ClusterAcked  string `json:"cluster_acked"`
	ListenerSent  string `json:"listener_sent"`
	ListenerAcked string `json:"listener_acked"`
	RouteSent     string `json:"route_sent"`
	RouteAcked    string `json:"route_acked"`
	EndpointSent  string `json:"endpoint_sent"`
	EndpointAcked string `json:"endpoint_acked"`
}

// InStep tells whether the proxy has acknowledged all that it was sent, and was
// sent clusters and listeners.
func (s SyncStatus) InStep() bool {
	return s.ClusterSent != "" && s.ListenerSent != "" && s.ClusterSent == s.ClusterAcked && s.ListenerSent == s.ListenerAcked &&
		s.RouteSent == s.RouteAcked && s.EndpointSent == s.EndpointAcked
}

// Syncz returns the proxies that are connected, by their names.
func (l *Lab) Syncz() (map[string]SyncStatus, error) {
	body, err := l.Fetch("/debug/syncz")
	if err != nil {
		return nil, err
	}
	var all []SyncStatus
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		return nil, fmt.Errorf("/debug/syncz: %w", err)
	}
	byName := map[string]SyncStatus{}
	for _, s := range all {
		byName[s.Proxy] = s
	}
	return byName, nil
}
