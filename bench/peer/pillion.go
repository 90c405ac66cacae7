// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"context"
	"fmt"
	nethttp "net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"pillion/bench/mesh"
	"pillion/bench/proc"
)

// pillion is this repository's proxy, as it is shipped: built here and started
// on the mesh's YAML, with its metrics, outlier detection, circuit breakers and
// Istio's default retries on.
type pillion struct{}

func (pillion) Name() string { return Ours }
func (pillion) Summary() string {
	return "this repository's proxy on Istio YAML: metrics, outlier detection, breakers and retries on"
}

// pillionBinary is the environment variable that names a binary to take instead of
// building one.
const pillionBinary = "PILLION_BINARY"

// before is another build of Pillion, so that a change can be measured beside what was
// there before it.
type before struct{ pillion }

func (before) Name() string { return "before" }
func (before) Summary() string {
	return "the build of Pillion that " + beforeBinary + " names, set up as ours"
}

// beforeBinary is the environment variable that names it; there is no such peer without.
const beforeBinary = "PILLION_BEFORE"

// Locate implements Peer.
func (b before) Locate(ctx context.Context, _ string) (Tool, error) {
	path, err := find(b.Name(), beforeBinary, "")
	if err != nil {
		return Tool{}, err
	}
	v, err := firstLine(ctx, path, "--version")
	return Tool{Path: path, Version: v}, err
}

// Locate builds cmd/proxy into dir, unless PILLION_BINARY names a binary.
func (p pillion) Locate(ctx context.Context, dir string) (Tool, error) {
	path := filepath.Join(dir, "proxy")
	if os.Getenv(pillionBinary) != "" {
		var err error
		if path, err = find(p.Name(), pillionBinary, ""); err != nil {
			return Tool{}, err
		}
	} else {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "pillion/cmd/proxy")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return Tool{}, &MissingError{Name: p.Name(), Remedy: fmt.Sprintf(
				"run this inside the repository, or set %s to a built binary; the build said: %v: %s", pillionBinary, err, oneLine(out))}
		}
	}
	v, err := firstLine(ctx, path, "--version")
	return Tool{Path: path, Version: v}, err
}

func (pillion) Unable(Job) string { return "" }

// SendsSpans implements Tracing.
func (pillion) SendsSpans() {}

func (p pillion) Prepare(tool Tool, dir string, job Job) (Launch, error) {
	addrs, err := listenAddrs(4)
	if err != nil {
		return Launch{}, err
	}
	yaml, addr := filepath.Join(dir, "mesh"), addrs[0]
	args := []string{"run", "--http", addrs[0], "--admin", addrs[1], "--metrics", addrs[2]}
	switch {
	case job.TLS.In:
		s := job.Services[0]
		args = []string{"run", "--http", "", "--inbound", addrs[0] + "=" + job.Origins[0], "--admin", addrs[1], "--metrics", addrs[2],
			"--namespace", mesh.Namespace, "--labels", "app=" + s.Name,
			"--service-account", job.TLS.Certificates.Server.Name, "--certs", job.TLS.Certificates.Server.Dir}
		err = job.Mesh.WriteInbound(yaml, job.Origins[0], "STRICT")
	case job.Inbound:
		args = []string{"run", "--http", "", "--inbound", addrs[0] + "=" + job.Origins[0], "--admin", addrs[1], "--metrics", addrs[2],
			"--namespace", mesh.Namespace, "--labels", "app=" + job.Services[0].Name}
		err = job.Mesh.WriteInbound(yaml, job.Origins[0], "DISABLE")
	case job.TLS.Out:
		args = append(args, "--namespace", mesh.Namespace,
			"--service-account", job.TLS.Certificates.Client.Name, "--certs", job.TLS.Certificates.Client.Dir)
		m := job.Mesh
		m.Mutual = job.TLS.Certificates.Server.ID()
		err = m.Write(yaml, job.Origins[0], job.Origins[1])
	case job.Downstream == mesh.TCP:
		// The service's own address, on loopback, is what it listens on.
		addr = addrs[3]
		err = job.Mesh.WriteTCP(yaml, addr, job.Origins[0])
	default:
		err = job.Mesh.Write(yaml, job.Origins[0], job.Origins[1])
	}
	if err == nil && job.Traced > 0 {
		var more []string
		if more, err = writeTracing(job, dir, yaml); err == nil {
			args = append(args, more...)
		}
	}
	if err != nil {
		return Launch{}, err
	}
	return Launch{Addr: addr, Admin: addrs[1], Metrics: addrs[2], Spec: &proc.Spec{
		Name: p.Name(), Path: tool.Path,
		Args: append(args, yaml),
		Env:  []string{"GOMAXPROCS=" + strconv.Itoa(job.Workers)},
	}}, nil
}

// writeTracing has the job's share of requests traced, with the first origin as the
// collector: it writes a MeshConfig into dir and what goes beside the mesh's YAML into
// files, and returns the arguments.
func writeTracing(job Job, dir, files string) (args []string, err error) {
	collector, err := netip.ParseAddrPort(job.Origins[0])
	if err != nil {
		return nil, fmt.Errorf("the origin: %w", err)
	}
	config := filepath.Join(dir, "meshconfig.yaml")
	text := fmt.Sprintf(`extensionProviders:
- {name: otel, opentelemetry: {service: %s/collector.bench, port: 4318, http: {path: /v1/traces, timeout: 5s}}}
`, mesh.Namespace)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	text = fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: collector, namespace: %[1]s}
spec:
  hosts: [collector.bench]
  ports: [{number: 4318, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: "%[2]s", ports: {http: %[3]d}}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: tracing, namespace: istio-system}
spec: {tracing: [{providers: [{name: otel}], randomSamplingPercentage: %[4]d}]}
`, mesh.Namespace, collector.Addr(), collector.Port(), job.Traced)
	return []string{"--mesh-config", config}, os.WriteFile(filepath.Join(files, "tracing.yaml"), []byte(text), 0o600)
}

// oneLine is the start of a program's output as one line.
func oneLine(out []byte) string {
	const most = 200
	s := strings.Join(strings.Fields(string(out)), " ")
	if len(s) > most {
		s = s[:most] + "…"
	}
	return s
}

// counted returns the sum of a counter's series at a metrics address.
func counted(ctx context.Context, addr, name string) (float64, error) {
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, "http://"+addr+"/stats/prometheus", nil)
	if err != nil {
		return 0, err
	}
	resp, err := nethttp.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var sum float64
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		series, value, ok := cutLast(sc.Text(), " ")
		if !ok || series != name && !strings.HasPrefix(series, name+"{") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("metrics: %q: %w", sc.Text(), err)
		}
		sum += v
	}
	return sum, sc.Err()
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
