// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"pillion/test/rig"
)

// proxied are the pods of the bookinfo mesh that have a proxy.
var proxied = []string{"productpage-v1", "reviews-v1", "reviews-v2", "ratings-v1", "istio-ingressgateway"}

// mesh is the bookinfo mesh at work: pods, istiod, applications, a proxy in
// each pod, and somebody outside of it all.
type mesh struct {
	t   testing.TB
	n   *Network
	l   *Rig
	app string
	// vips are the addresses of services, by name and by full name. Immutable.
	vips map[string]string
	// ours starts the proxy of this repository, envoy a real Envoy with Istio's
	// agent.
	ours, envoy func(*Pod) *Running
	// proxies are what runs in the pods, by the pods' names, and whether it is
	// ours. Owned by the test.
	proxies map[string]*Running
	isOurs  map[string]bool
	// copies are the mirrored requests that came.
	copies chan string
	// world is the CA of the gateway's certificates, issuer that of tokens.
	world  *authority
	issuer *issuer
	// sealedBy is the CA of the server behind the gateway's PASSTHROUGH.
	sealedBy *authority
	// setHealth says what the gRPC service answers.
	setHealth func(up bool)
	// logs are those of our proxies that have been replaced. Owned by the test.
	logs []string
}

// startMesh starts a mesh. ours tells in which pods our proxy is; a real Envoy
// is in the others.
func startMesh(t testing.TB, flavour Flavour, ours func(pod string) bool) *mesh {
	t.Helper()
	return startMeshOf(t, Options{Flavour: flavour}, ownConfig, ours)
}

// startMeshOf is startMesh with a MeshConfig and objects beside the mesh's own. config is
// the ProxyConfig of a pod.
func startMeshOf(t testing.TB, o Options, config func(pod string) string, ours func(pod string) bool) *mesh {
	t.Helper()
	outside := PodSpec{Namespace: "outside", Name: "outside", Addr: netip.MustParseAddr("10.244.0.30")}
	m := &mesh{t: t, n: StartNetwork(t, append(BookinfoPods(), outside)), app: BuildApp(t), vips: map[string]string{}, proxies: map[string]*Running{}, isOurs: map[string]bool{}}
	m.world, m.issuer = newAuthority(t), newIssuer(t)
	o.Objects = append(append(Bookinfo(), httpObjects, rawObjects, egressObjects, policyObjects, edgeObjects, team, m.issuer.yaml, m.world.secrets(t)), o.Objects...)
	o.Host, o.Dial = m.n.Node, m.dialLoopback
	m.l = Start(t, o)
	m.readAddresses(o.Objects)
	m.startServers()
	StartBookinfoApps(t, m.n, m.app)
	binary := Published(t, binaries.Static(t))
	m.ours = func(p *Pod) *Running {
		c := p.Sidecar(m.l, config(p.Spec.Name))
		c.Path, c.Args = binary, append(c.Args, "--root", c.Dir)
		return p.Run(c)
	}
	m.envoy = func(*Pod) *Running { t.Fatal("no Envoy was wanted"); return nil }
	if !allOf(proxied, ours) {
		agent := NewEnvoyAgent(t)
		m.envoy = func(p *Pod) *Running { return agent.Start(m.l, p, config(p.Spec.Name)) }
	}
	for _, name := range proxied {
		m.put(name, ours(name))
	}
	m.inStep()
	return m
}

func allOf(names []string, is func(string) bool) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !is(name) })
}

// put starts a proxy in a pod.
func (m *mesh) put(pod string, ours bool) {
	m.t.Helper()
	start := m.envoy
	if ours {
		start = m.ours
	}
	m.proxies[pod], m.isOurs[pod] = start(m.n.Pod(pod)), ours
}

// gone notes what a proxy that has ended has printed.
func (m *mesh) gone(pod string) {
	if m.isOurs[pod] {
		m.logs = append(m.logs, m.proxies[pod].Log())
	}
}

// swap has another proxy in a pod, at once.
func (m *mesh) swap(pod string, ours bool) {
	m.t.Helper()
	m.proxies[pod].Kill()
	m.gone(pod)
	// An Envoy dies a moment after the agent that started it.
	rig.Until(m.t, "the ports are free", func() error {
		c, err := m.n.Pod(pod).DialContext(m.t.Context(), "tcp4", "127.0.0.1:15021")
		if err != nil {
			return nil
		}
		_ = c.Close() // nothing was said
		return errors.New("somebody listens")
	})
	m.put(pod, ours)
}

// inStep waits until all proxies have what istiod has, and are ready.
func (m *mesh) inStep() {
	m.t.Helper()
	var pods []*Pod
	for _, name := range proxied {
		pods = append(pods, m.n.Pod(name))
	}
	m.l.WaitInStep(pods...)
	for _, p := range pods {
		rig.UntilWithin(m.t, 3*rig.Patience, p.Spec.Name+" is ready", func() error {
			r, err := m.ask(call{from: "legacy", url: "http://" + p.Spec.Addr.String() + ":15021/healthz/ready"})
			if err == nil && r.code != 200 {
				err = fmt.Errorf("%d %s", r.code, r.body)
			}
			return err
		})
	}
}

// readAddresses takes the names of services from their definitions.
func (m *mesh) readAddresses(objects []string) {
	for _, text := range objects {
		for _, doc := range strings.Split(text, "\n---") {
			var s struct {
				Kind     string
				Metadata struct{ Name, Namespace string }
				Spec     struct{ ClusterIP string }
			}
			if err := yaml.Unmarshal([]byte(doc), &s); err != nil {
				m.t.Fatalf("%v in\n%s", err, doc)
			}
			if s.Kind == "Service" && s.Spec.ClusterIP != "None" {
				m.vips[s.Metadata.Name] = s.Spec.ClusterIP
				m.vips[s.Metadata.Name+"."+s.Metadata.Namespace+".svc.cluster.local"] = s.Spec.ClusterIP
			}
		}
	}
}

// dial connects from a pod, as an application of it does. Names are those of
// services and of pods.
func (m *mesh) dial(ctx context.Context, from, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if vip, there := m.vips[host]; there {
		host = vip
	} else if p := m.n.pods[host]; p != nil {
		host = p.Spec.Addr.String()
	}
	return m.n.Pod(from).DialContext(ctx, "tcp4", net.JoinHostPort(host, port))
}

// istiodPod is what the API calls istiod, once it is told of it.
const istiodPod = "istiod"

// dialLoopback connects to a port of a pod that no one else may reach, as the
// kubelet does when the API forwards a port.
func (m *mesh) dialLoopback(_, pod string, port int) (net.Conn, error) {
	if pod == istiodPod && port == 15012 {
		return m.n.Node.DialContext(m.t.Context(), "tcp4", m.l.Ports.Secure)
	}
	p := m.n.pods[pod]
	if p == nil {
		return nil, fmt.Errorf("there is no pod %s", pod)
	}
	return p.DialContext(m.t.Context(), "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// call is a request of an application.
type call struct {
	from   string // the pod; productpage-v1 if empty
	method string // GET if empty
	url    string
	host   string   // the Host field, if it isn't that of the URL
	header []string // NAME: VALUE
	body   string
	http2  bool
}

// reply is what it was answered.
type reply struct {
	code   int
	header nethttp.Header
	body   string
	proto  string
	took   time.Duration
	page   Page // where an application of the lab has answered
}

// transport makes connections of their own for requests of a pod.
func (m *mesh) transport(from string) *nethttp.Transport {
	return &nethttp.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return m.dial(ctx, from, addr)
	}}
}

func (m *mesh) ask(c call) (*reply, error) {
	if c.from == "" {
		c.from = "productpage-v1"
	}
	tr := m.transport(c.from)
	if c.http2 {
		tr.Protocols, tr.DisableKeepAlives = new(nethttp.Protocols), false
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	defer tr.CloseIdleConnections()
	return askThrough(m.t.Context(), tr, c)
}

func askThrough(ctx context.Context, tr nethttp.RoundTripper, c call) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, rig.Patience)
	defer cancel()
	if c.method == "" {
		c.method = nethttp.MethodGet
	}
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	req, err := nethttp.NewRequestWithContext(ctx, c.method, c.url, body)
	if err != nil {
		return nil, err
	}
	req.Host = c.host
	for _, h := range c.header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	begun := time.Now()
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	r := &reply{code: res.StatusCode, header: res.Header, body: string(text), proto: res.Proto, took: time.Since(begun)}
	if json.Valid(text) {
		_ = json.Unmarshal(text, &r.page) // another application may have answered
	}
	return r, nil
}

// try makes a request, and fails the test if there is no answer or one with
// another status than is wanted.
func (m *mesh) try(t testing.TB, c call, code int) *reply {
	t.Helper()
	r, err := m.ask(c)
	if err != nil {
		t.Errorf("%s from %s: %v", c.url, c.from, err)
		return &reply{}
	}
	if r.code != code {
		t.Errorf("%s from %s: %d, not %d: %s %v", c.url, c.from, r.code, code, r.body, r.header)
	}
	return r
}

// startServers starts what the applications of Bookinfo can't do.
func (m *mesh) startServers() {
	m.copies = make(chan string, 64)
	m.serve("ratings-v1", ":9081", func(_ nethttp.ResponseWriter, r *nethttp.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			body = []byte(err.Error())
		}
		m.copies <- fmt.Sprintf("%s %s %s %s", r.Method, r.Host, r.URL.Path, body)
	})
	m.startRaw()
	m.startSealed()
	m.startOutside()
}

// serve runs an HTTP server of the test's own in a pod, which takes HTTP/2 in the clear
// too.
func (m *mesh) serve(pod, addr string, h nethttp.HandlerFunc) {
	m.t.Helper()
	ln, err := m.n.Pod(pod).Listen("tcp4", addr)
	if err != nil {
		m.t.Fatal(err)
	}
	s := &nethttp.Server{Handler: h, ReadHeaderTimeout: rig.Patience, Protocols: new(nethttp.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(ln) }() // until it is closed
	m.t.Cleanup(func() { _ = s.Close() })
}

// accept has each connection to an address of a pod served by f.
func (m *mesh) accept(pod, addr string, f func(net.Conn)) {
	m.t.Helper()
	ln, err := m.n.Pod(pod).Listen("tcp4", addr)
	if err != nil {
		m.t.Fatal(err)
	}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(rig.Patience))
				f(c)
			})
		}
	})
	m.t.Cleanup(func() { _ = ln.Close(); open.Wait() })
}

// terminate ends the proxy of a pod as the kubelet does, and waits for its end.
func (m *mesh) terminate(pod string) {
	m.t.Helper()
	r := m.proxies[pod]
	if err := syscall.Kill(r.PID(), syscall.SIGTERM); err != nil {
		m.t.Fatal(err)
	}
	if code := r.Wait(); code != 0 {
		m.t.Errorf("the proxy of %s ended with %d", pod, code)
	}
	m.gone(pod)
}

// metrics are the samples of a pod's page, of lines that hold all of words.
func (m *mesh) metrics(pod string, port int, words ...string) []string {
	m.t.Helper()
	r, err := m.ask(call{from: "legacy", url: fmt.Sprintf("http://%s:%d/stats/prometheus", m.n.Pod(pod).Spec.Addr, port)})
	if err != nil || r.code != 200 {
		m.t.Fatalf("the metrics of %s: %v %+v", pod, err, r)
	}
	var lines []string
	for line := range strings.Lines(r.body) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// checkLogs looks for what no log of ours may have. A warning has to be one
// that a user can act on, and nobody has to act on this mesh.
func (m *mesh) checkLogs(t testing.TB) {
	t.Helper()
	logs := slices.Clone(m.logs)
	for name, r := range m.proxies {
		if m.isOurs[name] {
			logs = append(logs, r.Log())
		}
	}
	for _, log := range logs {
		for line := range strings.Lines(log) {
			for _, bad := range []string{"defect", "panic", "DATA RACE", "goroutine ", "level=ERROR", "level=WARN", "fatal error"} {
				if strings.Contains(line, bad) && !strings.HasPrefix(line, "[") {
					t.Errorf("a proxy printed: %s", line)
				}
			}
		}
	}
	for line := range strings.Lines(m.l.Log()) {
		if strings.Contains(line, "ACK ERROR") {
			t.Errorf("istiod printed: %s", line)
		}
	}
}
