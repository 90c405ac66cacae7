// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pillion/test/rig"
)

// podRig is a folder that stands for the root of a pod, with the environment
// and ports of its container.
type podRig struct {
	root                          string
	status, probe, admin, metrics string // addresses
	env                           []string
}

func port(t testing.TB, addr string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newPod makes what the webhook and the kubelet give the container. No istiod
// listens where it is told that one is.
func newPod(t testing.TB, env ...string) *podRig {
	t.Helper()
	p := &podRig{root: t.TempDir(), status: rig.FreeAddr(t), probe: rig.FreeAddr(t), admin: rig.FreeAddr(t), metrics: rig.FreeAddr(t)}
	for name, text := range map[string]string{
		"etc/istio/pod/labels":                       "app=\"reviews\"\nversion=\"v1\"\n",
		"etc/istio/pod/annotations":                  "istio.io/rev=\"default\"\nsidecar.istio.io/statsInclusionPrefixes=\"extension_config_discovery\"\n",
		"var/run/secrets/istio/root-cert.pem":        "none",
		"var/run/secrets/tokens/istio-token":         "token",
		"etc/istio/proxy/.keep":                      "",
		"var/run/secrets/workload-spiffe-uds/.keep":  "",
		"var/run/secrets/credential-uds/.keep":       "",
		"var/run/secrets/workload-spiffe-credential": "",
	} {
		path := filepath.Join(p.root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, text)
	}
	nobody := rig.FreeAddr(t)
	p.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.root,
		"POD_NAME=reviews-v1-x", "POD_NAMESPACE=bookinfo", "SERVICE_ACCOUNT=bookinfo-reviews", "INSTANCE_IP=127.0.0.1", "HOST_IP=127.0.0.1",
		"PILOT_CERT_PROVIDER=istiod", "CA_ADDR=" + nobody, "ISTIO_CPU_LIMIT=2", "GOMAXPROCS=2", "GOMEMLIMIT=1073741824", "TRUST_DOMAIN=cluster.local",
		"ISTIO_META_CLUSTER_ID=Kubernetes", "ISTIO_META_WORKLOAD_NAME=reviews-v1", "ISTIO_META_INTERCEPTION_MODE=REDIRECT",
		"ENVOY_STATUS_PORT=" + port(t, p.probe), "ENVOY_PROMETHEUS_PORT=" + port(t, p.metrics),
		fmt.Sprintf(`PROXY_CONFIG={"discoveryAddress":%q,"statusPort":%s,"proxyAdminPort":%s,"terminationDrainDuration":"1s"}`, nobody, port(t, p.status), port(t, p.admin)),
	}, env...)
	return p
}

// agent is the binary under its name in the image.
func agent(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pilot-agent")
	if err := os.Symlink(binaries.Static(t), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// start runs the container, and returns when its probes are answered.
func (p *podRig) start(t testing.TB, program string, args ...string) *rig.Process {
	t.Helper()
	cmd := exec.Command(program, append(args, "--root", p.root)...)
	cmd.Env, cmd.Dir = p.env, p.root
	proc := rig.StartProcess(t, cmd)
	rig.Until(t, "the kubelet's probes are answered", func() error {
		if proc.Exited() {
			t.Fatalf("%v ended:\n%s%s", cmd, proc.Stdout, proc.Stderr)
		}
		_, _, err := ask("GET", "http://"+p.probe+"/healthz/ready")
		return err
	})
	return proc
}

// ask makes a request and returns the status and the body of the answer.
func ask(method, url string) (int, string, error) {
	req, err := nethttp.NewRequest(method, url, nil)
	if err != nil {
		return 0, "", err
	}
	client := nethttp.Client{Timeout: rig.Patience, Transport: &nethttp.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// hook runs a lifecycle hook in the container to its end.
func (p *podRig) hook(t testing.TB, program string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var out, errOut bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

var sidecarArgs = []string{"proxy", "sidecar", "--domain", "bookinfo.svc.cluster.local", "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error", "--log_output_level=default:info"}

// TestPodBeforeIstiod: as long as istiod hasn't answered the container isn't
// ready and says why; all that doesn't hang on istiod is there.
func TestPodBeforeIstiod(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	program := agent(t)
	p.start(t, program, sidecarArgs...)
	for _, addr := range []string{p.status, p.probe} {
		if code, body, err := ask("GET", "http://"+addr+"/healthz/ready"); code != 503 || body != "" || err != nil {
			t.Errorf("%s: %d %q %v", addr, code, body, err)
		}
		_, body, _ := ask("GET", "http://"+addr+"/healthz/ready?verbose")
		for _, want := range []string{"no clusters (CDS)", "no listeners (LDS)", "control plane: 127.0.0.1:"} {
			if !strings.Contains(body, want) {
				t.Errorf("%s lacks %q: %s", addr, want, body)
			}
		}
	}
	if code, _, _ := ask("GET", "http://"+p.probe+"/stats/prometheus"); code != 404 {
		t.Errorf("the port for probes serves metrics: %d", code)
	}
	stdout, stderr, code := p.hook(t, program, "wait", "--timeoutSeconds", "1", "--periodMillis=100", "--url", "http://"+p.probe+"/healthz/ready")
	if code != 1 || stdout != "" || !strings.Contains(stderr, "isn't ready after 1s") || !strings.Contains(stderr, "no clusters (CDS)") {
		t.Errorf("wait: %d %q %q", code, stdout, stderr)
	}
	for _, c := range []struct {
		port, method, path string
		code               int
		stdout, stderr     string
	}{
		{p.status, "GET", "healthz/ready?verbose", 1, `^no clusters`, "503"},
		{p.status, "get", "/debug/ndsz", 0, `^\{\}$`, ""}, // 404 is no failure
		{p.status, "GET", "drain", 1, "POST", "405"},
		{p.status, "GET", "app-health/x/livez", 1, "no probe", "400"},
		{rig.FreeAddr(t), "GET", "x", 1, "^$", "is a proxy in this pod"},
	} {
		stdout, stderr, code := p.hook(t, program, "request", "--debug-port="+port(t, c.port), c.method, c.path)
		if code != c.code || !regexp.MustCompile(c.stdout).MatchString(stdout) || !strings.Contains(stderr, c.stderr) || c.code == 0 && stderr != "" {
			t.Errorf("request %s %s: %d %q %q", c.method, c.path, code, stdout, stderr)
		}
	}
}

// TestPodServesApplication: probes and metrics of the application pass the
// status port.
func TestPodServesApplication(t *testing.T) {
	t.Parallel()
	from := make(chan string, 8)
	app := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		switch r.URL.Path {
		case "/healthy":
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			from <- host
			w.WriteHeader(nethttp.StatusAccepted)
		case "/metrics":
			_, _ = io.WriteString(w, "# TYPE app_requests_total counter\napp_requests_total 7\n")
		}
	}))
	defer app.Close()
	at := port(t, app.Listener.Addr().String())
	p := newPod(t,
		`ISTIO_KUBE_APP_PROBERS={"/app-health/app/readyz":{"httpGet":{"path":"/healthy","port":`+at+`},"timeoutSeconds":5},"/app-health/app/livez":{"tcpSocket":{"port":`+at+`},"timeoutSeconds":5}}`,
		`ISTIO_PROMETHEUS_ANNOTATIONS={"scrape":"true","port":"`+at+`","path":"/metrics"}`)
	p.start(t, agent(t), sidecarArgs...)
	if code, body, err := ask("GET", "http://"+p.status+"/app-health/app/readyz"); code != 202 || err != nil {
		t.Errorf("%d %s %v", code, body, err)
	}
	if got := <-from; got != "127.0.0.6" {
		t.Errorf("the probe came from %s, which the pod's rules would send to the proxy", got)
	}
	if code, body, err := ask("GET", "http://"+p.status+"/app-health/app/livez"); code != 200 || err != nil {
		t.Errorf("%d %s %v", code, body, err)
	}
	_, page, err := ask("GET", "http://"+p.status+"/stats/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"istio_agent_scrapes_total 1", "envoy_server_live 0", "app_requests_total 7", "istio_agent_process_resident_memory_bytes"} {
		if !strings.Contains(page, want) {
			t.Errorf("the merged page lacks %s", want)
		}
	}
}

// TestPodArguments: the forms in which the webhook and charts give them.
func TestPodArguments(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		agent  bool
		args   []string
		stderr string
	}{
		{"the webhook's", true, append(slices.Clone(sidecarArgs), "--stsPort=0", "--outlierLogPath=/dev/stdout"), ""},
		{"a gateway's, in words", true, []string{"proxy", "router", "--domain", "x.svc.cluster.local", "--proxyLogLevel", "warning", "--proxyComponentLogLevel", "misc:error", "--log_output_level", "default:info"}, ""},
		{"under our name", false, []string{"proxy", "sidecar", "--proxyLogLevel=info,misc:error,upstream:debug"}, ""},
		{"without the leading word", false, []string{"router", "--log_as_json"}, `"level":"INFO"`},
		{"without a role", true, []string{"proxy", "--domain", "x"}, ""},
		{"with flags to come", true, []string{"proxy", "sidecar", "--brandNew=7", "--newer", "x", "--newest"}, `flags="--brandNew --newer --newest"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			program := binaries.Static(t)
			if c.agent {
				program = agent(t)
			}
			proc := newPod(t).start(t, program, c.args...)
			proc.Signal(t, syscall.SIGTERM)
			if code := proc.WaitExit(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if !strings.Contains(proc.Stderr.String(), c.stderr) {
				t.Errorf("stderr lacks %q:\n%s", c.stderr, proc.Stderr)
			}
			if n := len(proc.Stderr.Lines("aren't known")); n != strings.Count(c.stderr, "flags=") {
				t.Errorf("unknown flags are named %d times", n)
			}
		})
	}
}

// TestPodEnds: by signal after a drain, by /drain and a signal at once, by
// /quitquitquit at once.
func TestPodEnds(t *testing.T) {
	t.Parallel()
	long := fmt.Sprintf("MINIMUM_DRAIN_DURATION=%s", 10*rig.Patience)
	program := agent(t)
	for _, c := range []struct {
		name string
		env  string
		end  func(t *testing.T, p *podRig, proc *rig.Process)
		log  string
	}{
		{"a signal", "", func(t *testing.T, p *podRig, proc *rig.Process) {
			proc.Signal(t, syscall.SIGTERM)
			rig.Until(t, "it isn't ready and says that it drains", func() error {
				code, body, err := ask("GET", "http://"+p.probe+"/healthz/ready?verbose")
				if err != nil || code != 503 || !strings.Contains(body, "draining") {
					return fmt.Errorf("%d %s %v", code, body, err)
				}
				return nil
			})
		}, "wait=1s"},
		{"two signals", long, func(t *testing.T, _ *podRig, proc *rig.Process) {
			proc.Signal(t, syscall.SIGTERM)
			rig.Until(t, "it waits", func() error {
				if len(proc.Stderr.Lines("ending with the last connection")) == 0 {
					return errors.New("not yet")
				}
				return nil
			})
			proc.Signal(t, syscall.SIGTERM)
		}, "ending with"},
		{"/drain, then a signal", long, func(t *testing.T, p *podRig, proc *rig.Process) {
			stdout, stderr, code := p.hook(t, program, "request", "--debug-port="+port(t, p.status), "POST", "drain")
			if code != 0 || stdout != "OK" || stderr != "" {
				t.Errorf("the preStop hook: %d %q %q", code, stdout, stderr)
			}
			if proc.Exited() {
				t.Error("it ended while the application may need it")
			}
			proc.Signal(t, syscall.SIGTERM)
		}, "ending at once"},
		{"/quitquitquit", long, func(t *testing.T, p *podRig, _ *rig.Process) {
			if code, body, err := ask("POST", "http://"+p.status+"/quitquitquit"); code != 200 || err != nil {
				t.Errorf("%d %s %v", code, body, err)
			}
		}, "quitquitquit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, "EXIT_ON_ZERO_ACTIVE_CONNECTIONS=false")
			if c.env != "" {
				p = newPod(t, "EXIT_ON_ZERO_ACTIVE_CONNECTIONS=true", c.env)
			}
			proc := p.start(t, program, sidecarArgs...)
			begun := time.Now()
			c.end(t, p, proc)
			if code := proc.WaitExit(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if len(proc.Stderr.Lines(c.log)) == 0 {
				t.Errorf("after %v the log lacks %q:\n%s", time.Since(begun), c.log, proc.Stderr)
			}
		})
	}
}

// TestPodRefuses: what can't be used is named, all of it, and nothing runs.
func TestPodRefuses(t *testing.T) {
	t.Parallel()
	p := newPod(t, "ISTIO_META_POD_PORTS=[", "ISTIO_CPU_LIMIT=2000m", "ENVOY_STATUS_PORT=http")
	write(t, filepath.Join(p.root, "etc/istio/pod/labels"), "app=reviews\n")
	program := agent(t)
	_, stderr, code := p.hook(t, program, append(slices.Clone(sidecarArgs), "--root", p.root)...)
	for _, want := range []string{"ISTIO_META_POD_PORTS: ", `ISTIO_CPU_LIMIT: "2000m": is not a whole number`, `ENVOY_STATUS_PORT: "http": is not a port`, "labels: line 1", "4 values that can't be used"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("stderr lacks %q:\n%s", want, stderr)
		}
	}
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"proxy", "sidecar", "--proxyLogLevel=loud"}, 2, `"loud" is none of`},
		{[]string{"proxy", "waypoint"}, 2, `unknown command "waypoint"`},
		{[]string{"request", "GET"}, 2, "METHOD PATH"},
		{[]string{"request", "--debug-port=0", "GET", "x"}, 2, "is no port"},
		{[]string{"wait", "--url", "x"}, 2, "is no URL"},
		{[]string{"wait", "--periodMillis=0"}, 2, "above 0"},
		{[]string{"version", "-o", "xml"}, 2, "neither json nor yaml"},
	} {
		if _, stderr, code := p.hook(t, program, c.args...); code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: %d %q", c.args, code, stderr)
		}
	}
	// An identity that isn't there.
	for variable, want := range map[string]string{
		"WORKLOAD_IDENTITY_SOCKET_FILE=spire.sock": "workload-spiffe-uds/spire.sock, which was asked for by name",
		"CA_PROVIDER=GkeWorkloadCertificate":       "there is no identity: no SDS server in",
	} {
		p := newPod(t, variable)
		if _, stderr, code := p.hook(t, program, append(slices.Clone(sidecarArgs), "--root", p.root)...); code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%s: %d %s", variable, code, stderr)
		}
	}
	// A port that is taken.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := newPod(t, "ENVOY_STATUS_PORT="+port(t, ln.Addr().String()))
	if _, stderr, code := taken.hook(t, program, append(slices.Clone(sidecarArgs), "--root", taken.root)...); code != 1 || !strings.Contains(stderr, "another sidecar in the pod") {
		t.Errorf("%d %s", code, stderr)
	}
}

func TestAgentVersion(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	stdout, _, code := p.hook(t, agent(t), "version", "-o", "json")
	var v struct{ ClientVersion map[string]string }
	if err := json.Unmarshal([]byte(stdout), &v); code != 0 || err != nil || v.ClientVersion["istio_version"] != "1.30.0" || v.ClientVersion["version"] == "" {
		t.Errorf("%d %v %s", code, err, stdout)
	}
	if stdout, _, code := p.hook(t, agent(t), "version", "--short"); code != 0 || strings.Count(stdout, "\n") != 1 {
		t.Errorf("%d %q", code, stdout)
	}
}
