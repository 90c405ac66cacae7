// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
)

// operator is somebody with istioctl, on the node, who may ask the Kubernetes
// API.
type operator struct {
	m       *mesh
	program string // the path of istioctl
	home    string
}

func newOperator(t testing.TB, m *mesh) *operator {
	t.Helper()
	program, err := Program(need.Root(t), "istioctl")
	if err != nil {
		t.Fatal(err)
	}
	need.Lab(t, program)
	// istioctl looks for istiod's pod and what istiod reads, and asks for a
	// token of an account that every namespace of a cluster has.
	m.l.Apply(`
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: istio-system}}
---
apiVersion: v1
kind: Pod
metadata: {name: ` + istiodPod + `, namespace: istio-system, labels: {app: istiod, istio.io/rev: default}}
spec: {nodeName: node, containers: [{name: discovery, image: pilot, ports: [{containerPort: 15012, protocol: TCP}]}]}
status: {phase: Running, podIP: 10.244.0.1, podIPs: [{ip: 10.244.0.1}]}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: "rootNamespace: istio-system"}}
`)
	return &operator{m, program, t.TempDir()}
}

// istioctl runs it, and returns what it prints.
func (o *operator) istioctl(args ...string) (string, error) {
	cmd := exec.Command("ip", append([]string{"netns", "exec", o.m.n.Node.name, o.program, "--kubeconfig", o.m.l.KubeConfig()}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + o.home, "TZ=UTC"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("istioctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// must is istioctl once it works: its own time limits are those of a person.
func (o *operator) must(t *testing.T, args ...string) (text string) {
	t.Helper()
	rig.Until(t, "istioctl answers", func() (err error) {
		text, err = o.istioctl(args...)
		return err
	})
	return text
}

// save stores a page of a pod's admin port, and returns the file.
func (o *operator) save(pod, page string) (string, error) {
	r, err := o.m.ask(call{from: pod, url: "http://127.0.0.1:15000/" + page})
	if err != nil {
		return "", err
	}
	if r.code != 200 {
		return "", fmt.Errorf("%s of %s: %d %s", page, pod, r.code, r.body)
	}
	file := filepath.Join(o.home, "dump.json")
	return file, os.WriteFile(file, []byte(r.body), 0o644)
}

// inNamespace is a pod as istioctl is told of it.
func (o *operator) inNamespace(pod string) string { return pod + "." + o.m.n.Pod(pod).Spec.Namespace }

// proxyConfig is `istioctl proxy-config ARGS` for a pod.
func (o *operator) proxyConfig(pod string, args ...string) (string, error) {
	return o.istioctl(append(append([]string{"proxy-config"}, args...), o.inNamespace(pod))...)
}

// bootstrapOnly are rows that stand for what only Envoy needs: its bootstrap.
var bootstrapOnly = []struct{ row, why string }{
	{`(^| |/)(agent|prometheus_stats|sds-grpc|xds-grpc)( |$)`, "a cluster by which Envoy reaches its agent and itself"},
	{`0\.0\.0\.0 (15021|15090) `, "probes and metrics are ports of the process, and no listeners"},
	{`backend \* /(healthz/ready|stats/prometheus)\*`, "the routes of those two"},
}

// bootstrapNames are what those rows stand for. Routes have no name there.
var bootstrapNames = []string{"agent", "prometheus_stats", "sds-grpc", "xds-grpc", "0.0.0.0_15021", "0.0.0.0_15090", ""}

// rows are the lines of a table in the order of their text: istioctl leaves
// some in the order of the dump, and Envoy's is left to chance.
func rows(table string) []string {
	var all []string
next:
	for line := range strings.Lines(table) {
		line = strings.Join(strings.Fields(line), " ")
		for _, b := range bootstrapOnly {
			if regexp.MustCompile(b.row).MatchString(line) {
				continue next
			}
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

// ownCertificate takes out of the table of secrets when and with which number
// the CA has made the pod's certificate. Each proxy has asked for its own.
var ownCertificate = regexp.MustCompile(`(default +Cert Chain +ACTIVE +true).*`)

// objects are the lines of a list in JSON, sorted by name, without what stands
// for Envoy's bootstrap.
func objects(text string) ([]string, error) {
	var list []map[string]any
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("%w in\n%s", err, text)
	}
	name := func(v map[string]any) string {
		s, _ := v["name"].(string)
		return s
	}
	list = slices.DeleteFunc(list, func(v map[string]any) bool { return slices.Contains(bootstrapNames, name(v)) })
	slices.SortStableFunc(list, func(a, b map[string]any) int { return strings.Compare(name(a), name(b)) })
	sorted, err := json.MarshalIndent(list, "", " ")
	return strings.Split(string(sorted), "\n"), err
}

// questions are what is asked of each proxy. Their answers have to be the same
// as those of Envoy in its place.
var questions = [][]string{
	{"cluster"},
	{"cluster", "--fqdn", "reviews.default.svc.cluster.local"},
	{"cluster", "--port", "9080"},
	{"cluster", "--subset", "v1"},
	{"cluster", "--direction", "inbound"},
	{"cluster", "-o", "json"},
	{"listener"},
	{"listener", "--port", "9080"},
	{"listener", "--type", "HTTP"},
	{"listener", "--address", "0.0.0.0", "--port", "15006"},
	{"listener", "-o", "json"},
	{"route"},
	{"route", "--name", "9080"},
	{"route", "-o", "json"},
	{"endpoint"},
	{"endpoint", "--cluster", "outbound|9080||reviews.default.svc.cluster.local"},
	{"endpoint", "--address", "10.244.0.13"},
	{"endpoint", "--status", "healthy", "--port", "9080"},
	{"eds"},
	{"eds", "--status", "healthy", "--port", "9080"},
	{"secret"},
}

// answer is what is compared of the answer to a question.
func (o *operator) answer(pod string, question []string) ([]string, error) {
	text, err := o.proxyConfig(pod, question...)
	if err != nil {
		return nil, err
	}
	switch {
	case slices.Contains(question, "json"):
		return objects(text)
	case question[0] == "secret":
		text = ownCertificate.ReplaceAllString(text, "$1")
	}
	return rows(text), nil
}

// TestIstioctl: Istio's own tool shows of our proxies what it shows of Envoys
// in their place, in istiod's eyes and in their own.
func TestIstioctl(t *testing.T) {
	t.Parallel()
	m := startMesh(t, Safe, func(string) bool { return false })
	o := newOperator(t, m)
	pods := []string{"productpage-v1", "ratings-v1", "istio-ingressgateway"}
	theirs, theirDumps := map[string][]string{}, map[string][]string{}
	for _, pod := range pods {
		theirDumps[pod] = o.kiali(t, pod)
		for _, q := range questions {
			// The hosts of an original destination are there for as long as
			// somebody asks for them.
			rig.Until(t, "Envoy has hosts", func() error {
				m.knock(t)
				a, err := o.answer(pod, q)
				if err == nil && len(q) == 1 && (q[0] == "endpoint" || q[0] == "eds") && pod != "istio-ingressgateway" && !strings.Contains(strings.Join(a, " "), "inbound|9080||") {
					err = errors.New("no host of inbound|9080||")
				}
				theirs[pod+" "+strings.Join(q, " ")] = a
				return err
			})
		}
	}
	policies, description := o.policies(t, "reviews-v2"), o.describe(t, "reviews-v2")
	o.wantStatus(t, inStep)
	for _, pod := range append([]string{"reviews-v2"}, pods...) {
		m.swap(pod, true)
	}
	m.inStep()
	t.Run("policies", func(t *testing.T) {
		if got := o.policies(t, "reviews-v2"); !slices.Equal(got, policies) || !slices.Contains(got, "DENY deny.default 4") {
			t.Errorf("%q: %s", got, difference(got, policies))
		}
	})
	t.Run("description", func(t *testing.T) {
		if got := o.describe(t, "reviews-v2"); !slices.Equal(got, description) || !slices.Contains(got, "VirtualService: reviews") {
			t.Errorf("%q: %s", got, difference(got, description))
		}
	})
	for _, pod := range pods {
		for _, q := range questions {
			t.Run(pod+" "+strings.Join(q, " "), func(t *testing.T) {
				want := theirs[pod+" "+strings.Join(q, " ")]
				err := rig.Await(func() error {
					m.knock(t)
					got, err := o.answer(pod, q)
					if err == nil && !slices.Equal(got, want) {
						err = errors.New(difference(got, want))
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	for _, pod := range pods {
		t.Run(pod+" bootstrap", func(t *testing.T) { testBootstrap(t, o, pod) })
		t.Run(pod+" in Kiali", func(t *testing.T) {
			if got, want := o.kiali(t, pod), theirDumps[pod]; !slices.Equal(got, want) {
				t.Error(difference(got, want))
			}
		})
	}
	t.Run("files", func(t *testing.T) { testFiles(t, o, "ratings-v1") })
	t.Run("status", func(t *testing.T) { testProxyStatus(t, m, o) })
}

// knock has each pod be asked for something.
func (m *mesh) knock(t *testing.T) {
	t.Helper()
	m.try(t, call{url: "http://ratings:9080/"}, 200)
	m.try(t, call{from: "ratings-v1", url: "http://productpage:9080/"}, 200)
}

// difference names the lines that two answers don't have in common, as often
// as one has them more than the other.
func difference(got, want []string) string {
	more := map[string]int{}
	for _, line := range got {
		more[line]++
	}
	for _, line := range want {
		more[line]--
	}
	var b strings.Builder
	for _, line := range slices.Sorted(maps.Keys(more)) {
		if n := more[line]; n != 0 {
			fmt.Fprintf(&b, "%+d %s\n", n, line)
		}
	}
	return fmt.Sprintf("%d lines, not %d:\n%s", len(got), len(want), b.String())
}

// wrongScript is an EnvoyFilter that no proxy can take.
const wrongScript = `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: broken, namespace: default}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: INSERT_BEFORE
      value: {name: broken, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, inlineCode: "function ("}}
`

// synced are the types of a pod that has all that istiod has sent.
var synced = map[string]string{"CDS": "SYNCED", "LDS": "SYNCED", "EDS": "SYNCED", "RDS": "SYNCED"}

// statuses are what `istioctl proxy-status` says of the mesh, if it is that of
// the sidecars. The gateway has certificates of istiod's besides.
func statuses(sidecars map[string]string) map[string]map[string]string {
	all := map[string]map[string]string{"istio-ingressgateway.istio-system": with(synced, map[string]string{"SDS": "SYNCED"})}
	for _, name := range proxied {
		if name != "istio-ingressgateway" {
			all[name+".default"] = sidecars
		}
	}
	return all
}

// inStep is what it says when there is nothing to do.
var inStep = statuses(synced)

// testProxyStatus: istiod and istioctl say of our proxies what they say of
// Envoys: that all is in step, and then what was refused. reviews-v1 is an
// Envoy.
func testProxyStatus(t *testing.T, m *mesh, o *operator) {
	t.Run("in step", func(t *testing.T) {
		o.wantStatus(t, inStep)
		for _, pod := range proxied {
			o.wantCompared(t, pod, "Clusters Match", "Listeners Match", "Routes Match")
		}
	})
	m.l.Apply(wrongScript)
	t.Run("refused", func(t *testing.T) {
		o.wantStatus(t, statuses(with(synced, map[string]string{"LDS": "ERROR"})))
		for _, pod := range []string{"ratings-v1", "reviews-v1"} {
			o.wantCompared(t, pod, "Clusters Match", "Listeners Don't Match", "Routes Match")
		}
		// /debug/syncz, which knows nothing of refusals, has sent what isn't
		// acknowledged.
		for name, s := range m.l.Syncz() {
			if s.Type == "sidecar" && (s.ListenerSent == s.ListenerAcked || s.ClusterSent != s.ClusterAcked || s.RouteSent != s.RouteAcked || s.EndpointSent != s.EndpointAcked) {
				t.Errorf("%s: %+v", name, s)
			}
		}
	})
	m.l.Delete(wrongScript)
	t.Run("well again", func(t *testing.T) {
		o.wantStatus(t, inStep)
		for _, pod := range []string{"ratings-v1", "reviews-v1"} {
			o.wantCompared(t, pod, "Clusters Match", "Listeners Match", "Routes Match")
		}
	})
}

// wantStatus waits until `istioctl proxy-status` says of proxies what is
// wanted, by the short names of types. Of all others it says IGNORED.
func (o *operator) wantStatus(t *testing.T, want map[string]map[string]string) {
	t.Helper()
	err := rig.Await(func() error {
		all, err := o.proxyStatus()
		if err != nil {
			return err
		}
		for name, types := range want {
			if !maps.Equal(all[name], types) {
				return fmt.Errorf("%s: %v, not %v", name, all[name], types)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// age is how long ago the last response was sent.
var age = regexp.MustCompile(` \([^)]*\)`)

// proxyStatus is what `istioctl proxy-status` says of each proxy, by types.
func (o *operator) proxyStatus() (map[string]map[string]string, error) {
	text, err := o.istioctl("proxy-status", "-v", "1")
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(age.ReplaceAllString(text, "")), "\n")
	head := strings.Fields(lines[0])
	all := map[string]map[string]string{}
	for _, line := range lines[1:] {
		row := strings.Fields(line)
		if len(row) != len(head) {
			return nil, fmt.Errorf("%q has not the %d columns of %q", line, len(head), lines[0])
		}
		types := map[string]string{}
		for i, name := range head {
			if strings.HasSuffix(name, "DS") && row[i] != "IGNORED" {
				types[name] = row[i]
			}
		}
		all[row[0]] = types
	}
	return all, nil
}

// wantCompared has istioctl compare what istiod would send a pod's proxy with
// what that has.
func (o *operator) wantCompared(t *testing.T, pod string, want ...string) {
	t.Helper()
	err := rig.Await(func() error {
		text, err := o.istioctl("proxy-status", o.inNamespace(pod))
		if err != nil {
			return err
		}
		for _, line := range want {
			if !regexp.MustCompile("(?m)^" + line).MatchString(text) {
				return fmt.Errorf("%s: no %q in\n%s", pod, line, text)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// policies are what `istioctl x authz check` finds in a pod.
func (o *operator) policies(t *testing.T, pod string) []string {
	t.Helper()
	return rows(o.must(t, "experimental", "authz", "check", o.inNamespace(pod)))
}

// describe is what `istioctl x describe` makes of a pod and of its proxy's
// configuration. It names policies in no order.
func (o *operator) describe(t *testing.T, pod string) []string {
	t.Helper()
	lines := rows(o.must(t, "experimental", "describe", "pod", o.inNamespace(pod)))
	for i, line := range lines {
		if names, ok := strings.CutPrefix(line, "RBAC policies: "); ok {
			all := strings.Split(names, ", ")
			slices.Sort(all)
			lines[i] = "RBAC policies: " + strings.Join(all, ", ")
		}
	}
	slices.Sort(lines)
	return lines
}

// testFiles: what has been saved of a pod, as what istioctl asks it itself; and
// istiod that is asked without its pod.
func testFiles(t *testing.T, o *operator, pod string) {
	for _, tc := range []struct{ page, question string }{
		{"config_dump?include_eds=true", "proxy-config route"},
		{"config_dump?include_eds=true", "proxy-config all"},
		{"clusters?format=json", "proxy-config endpoint"},
		{"config_dump", "experimental authz check"},
	} {
		question := strings.Fields(tc.question)
		err := rig.Await(func() error {
			o.m.knock(t)
			file, err := o.save(pod, tc.page)
			if err != nil {
				return err
			}
			want, err := o.istioctl(append(slices.Clone(question), o.inNamespace(pod))...)
			if err != nil {
				return err
			}
			got, err := o.istioctl(append(slices.Clone(question), "-f", file)...)
			if err == nil && !slices.Equal(rows(got), rows(want)) {
				err = errors.New(difference(rows(got), rows(want)))
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", tc.question, err)
		}
	}
	file, err := o.save(pod, "config_dump")
	if err != nil {
		t.Fatal(err)
	}
	text := o.must(t, "proxy-status", o.inNamespace(pod), "--file", file, "--xds-address", o.m.l.Ports.Secure)
	if !strings.Contains(text, "Listeners Match") {
		t.Error(text)
	}
}

// testBootstrap: what istioctl shows of a bootstrap is who the proxy is.
func testBootstrap(t *testing.T, o *operator, pod string) {
	text := o.must(t, "proxy-config", "bootstrap", "-o", "short", o.inNamespace(pod))
	if !regexp.MustCompile(`(?m)^Istio Version: +1\.30\.0\nEnvoy Version: +\d+\.\d+\.\d+-pillion`).MatchString(text) {
		t.Error(text)
	}
	text = o.must(t, "proxy-config", "bootstrap", "-o", "json", o.inNamespace(pod))
	var dump struct {
		Bootstrap struct {
			Node struct {
				ID       string
				Metadata map[string]any
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	node, spec := dump.Bootstrap.Node, o.m.n.Pod(pod).Spec
	if !strings.Contains(node.ID, "~"+spec.Addr.String()+"~"+pod+"."+spec.Namespace+"~") || node.Metadata["NAME"] != pod ||
		node.Metadata["NAMESPACE"] != spec.Namespace || node.Metadata["CLUSTER_ID"] != ClusterID {
		t.Errorf("the node is %+v", node)
	}
}
