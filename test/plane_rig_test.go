// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pillion/test/lab"
	"pillion/test/rig"
)

// plane is a real istiod, a sidecar that it drives, and what stands between
// them: gate before relay before istiod's discovery, ca before its CA.
//
// The mesh has the service stable.example, whose objects never change, and
// edited.example, whose do. Both lead to applications of this process.
type plane struct {
	t        testing.TB
	istiod   *lab.Rig
	relay    *relay
	gate, ca *gate
	pod      *podRig
	program  string
	proc     *rig.Process
	port     string // of both services
	http     string // where the proxy listens for them
	stable   *httptest.Server
	one, two *httptest.Server // of edited.example
}

// named is an application that answers with its name.
func named(t testing.TB, name string) *httptest.Server {
	s := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, _ *nethttp.Request) { _, _ = io.WriteString(w, name) }))
	t.Cleanup(s.Close)
	return s
}

// serviceEntry is a service with endpoints on this machine, each PORT or PORT/VERSION.
func serviceEntry(name, port string, endpoints ...string) string {
	var list []string
	for _, e := range endpoints {
		at, version, _ := strings.Cut(e, "/")
		list = append(list, fmt.Sprintf("{address: 127.0.0.1, ports: {http: %s}, labels: {version: %q}}", at, version))
	}
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s, namespace: bookinfo}
spec:
  hosts: [%s.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: %s, name: http, protocol: HTTP}]
  endpoints: [%s]
`, name, name, port, strings.Join(list, ", "))
}

// generation is a VirtualService for edited.example whose answers bear a number.
func generation(n int) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edited, namespace: bookinfo}
spec:
  hosts: [edited.example]
  http:
  - route:
    - {destination: {host: edited.example, subset: v%d}}
    headers: {response: {set: {x-generation: %q}}}
`, 1+n%2, mark(n))
}

func mark(n int) string { return fmt.Sprintf("gen-%06d", n) }

const subsets = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: edited, namespace: bookinfo}
spec:
  host: edited.example
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
`

// quickIstiod has istiod push each edit, not all edits of a second at once.
var quickIstiod = []string{"PILOT_DEBOUNCE_AFTER=10ms", "PILOT_DEBOUNCE_MAX=50ms"}

// planes bounds how many there are at once: each is an istiod of 150 MB.
var planes = make(chan struct{}, 4)

// startPlane starts istiod and a proxy that is ready.
func startPlane(t testing.TB, objects ...string) *plane {
	t.Helper()
	p := preparePlane(t, objects...)
	p.start()
	p.waitReady()
	return p
}

// preparePlane is startPlane without the proxy.
func preparePlane(t testing.TB, objects ...string) *plane {
	t.Helper()
	planes <- struct{}{}
	t.Cleanup(func() { <-planes })
	p := &plane{t: t, stable: named(t, "stable"), one: named(t, "v1"), two: named(t, "v2"), http: rig.FreeAddr(t)}
	p.port = port(t, p.http)
	mesh := []string{
		"{apiVersion: v1, kind: Namespace, metadata: {name: bookinfo, labels: {kubernetes.io/metadata.name: bookinfo}}}",
		serviceEntry("stable", p.port, portOf(t, p.stable)),
		serviceEntry("edited", p.port, portOf(t, p.one)+"/v1", portOf(t, p.two)+"/v2"), subsets, generation(0),
	}
	p.istiod = lab.Start(t, lab.Options{Objects: append(mesh, objects...), Env: quickIstiod})
	p.relay = startRelay(t, p.istiod.Ports.XDS)
	p.gate, p.ca = startGate(t, p.relay.addr), startGate(t, p.istiod.Ports.Secure)
	p.pod = newPod(t, "CA_ADDR=localhost:"+port(t, p.ca.addr), "ISTIO_META_INTERCEPTION_MODE=NONE", "ECC_SIGNATURE_ALGORITHM=ECDSA",
		"ISTIO_META_POD_PORTS=[]")
	// Tests hold that no connection is drained, which a pod's metrics don't tell unasked.
	p.pod.env = append(p.pod.env, fmt.Sprintf(`PROXY_CONFIG={"proxyStatsMatcher":{"inclusionSuffixes":["downstream_cx_drain_close"]},"discoveryAddress":%q,"controlPlaneAuthPolicy":"NONE","statusPort":%s,"proxyAdminPort":%s,"terminationDrainDuration":"0s"}`,
		p.gate.addr, port(t, p.pod.status), port(t, p.pod.admin)))
	root, err := os.ReadFile(p.istiod.RootCert())
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(p.istiod.Token("bookinfo", "bookinfo-reviews"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.pod.root, "var/run/secrets/istio/root-cert.pem"), string(root))
	write(t, filepath.Join(p.pod.root, "var/run/secrets/tokens/istio-token"), string(token)+"\n")
	p.program = agent(t)
	return p
}

func portOf(t testing.TB, s *httptest.Server) string { return port(t, s.Listener.Addr().String()) }

// start runs the proxy, and returns when its probes are answered.
func (p *plane) start() {
	p.t.Helper()
	p.proc = p.pod.start(p.t, p.program, "proxy", "sidecar", "--domain", "bookinfo.svc.cluster.local", "--proxyLogLevel=info", "--log_output_level=default:info")
}

// ready reports whether the proxy is, and if not why.
func (p *plane) ready() error {
	code, body, err := ask("GET", "http://"+p.pod.probe+"/healthz/ready?verbose")
	if err == nil && code != 200 {
		err = fmt.Errorf("%d: %s", code, body)
	}
	return err
}

func (p *plane) waitReady() {
	p.t.Helper()
	rig.Until(p.t, "the proxy is ready", p.ready)
}

// waitLog waits for a line of the proxy's log that has all parts.
func (p *plane) waitLog(within time.Duration, parts ...string) string {
	p.t.Helper()
	var line string
	rig.UntilWithin(p.t, within, fmt.Sprintf("the log has a line with %q", parts), func() error {
		lines := p.proc.Stderr.Lines(parts...)
		if len(lines) == 0 {
			return fmt.Errorf("there is none")
		}
		line = lines[0]
		return nil
	})
	return line
}

// metric is a metric of the proxy.
func (p *plane) metric(name string, labels ...string) float64 {
	p.t.Helper()
	return (&rig.Proxy{Metrics: p.pod.metrics}).Scrape(p.t).Sum(name, labels...)
}

// drained counts the connections of clients that a change has ended.
func (p *plane) drained() float64 {
	p.t.Helper()
	const name = "envoy_http_downstream_cx_drain_close"
	m := (&rig.Proxy{Metrics: p.pod.metrics}).Scrape(p.t)
	if len(m.Series(name)) == 0 {
		p.t.Errorf("there is no %s: it proves nothing", name)
	}
	return m.Sum(name)
}

// waitMetric waits until a metric is what it should be.
func (p *plane) waitMetric(within time.Duration, ok func(float64) bool, name string, labels ...string) {
	p.t.Helper()
	rig.UntilWithin(p.t, within, name+" is as expected", func() error {
		if v := p.metric(name, labels...); !ok(v) {
			return fmt.Errorf("it is %v", v)
		}
		return nil
	})
}

func atLeast(n float64) func(float64) bool { return func(v float64) bool { return v >= n } }
func exactly(n float64) func(float64) bool { return func(v float64) bool { return v == n } }

// get asks for a service once.
func (p *plane) get(host string) (status int, body string, header nethttp.Header, err error) {
	req, err := nethttp.NewRequest("GET", "http://"+p.http+"/", nil)
	if err != nil {
		return 0, "", nil, err
	}
	req.Host, req.Close = host+":"+p.port, true
	res, err := (&nethttp.Client{Timeout: rig.Patience}).Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), res.Header, err
}

// waitGeneration waits until edited.example is routed as a generation says.
func (p *plane) waitGeneration(n int) {
	p.t.Helper()
	rig.Until(p.t, "the route of "+mark(n)+" serves", func() error {
		status, body, h, err := p.get("edited.example")
		if err == nil && (status != 200 || h.Get("X-Generation") != mark(n)) {
			err = fmt.Errorf("%d %q %s", status, body, h.Get("X-Generation"))
		}
		return err
	})
}

// resident is how much memory the proxy has resident, in octets.
func (p *plane) resident() int64 {
	p.t.Helper()
	return p.proc.Resident(p.t)
}

// load is steady traffic over connections that are to stay open.
type load struct {
	t        testing.TB
	requests atomic.Int64
	failed   atomic.Int64
	stop     chan struct{}
	all      sync.WaitGroup
}

// startLoad asks for a service over n connections, each once in every. A request that isn't answered with 200 and one of the bodies, and a
// connection that is closed, fail the test.
func (p *plane) startLoad(n int, every time.Duration, host string, bodies ...string) *load {
	p.t.Helper()
	l := &load{t: p.t, stop: make(chan struct{})}
	for range n {
		c, err := net.Dial("tcp", p.http)
		if err != nil {
			p.t.Fatal(err)
		}
		l.all.Go(func() {
			defer c.Close()
			r := bufio.NewReader(c)
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				if err := askOver(c, r, host+":"+p.port, bodies); err != nil {
					if l.failed.Add(1) <= 3 {
						p.t.Errorf("a request to %s: %v", host, err)
					}
					return
				}
				l.requests.Add(1)
				select {
				case <-tick.C:
				case <-l.stop:
					return
				}
			}
		})
	}
	p.t.Cleanup(func() { l.end() })
	return l
}

// askOver makes one request on a connection that has to go on.
func askOver(c net.Conn, r *bufio.Reader, host string, bodies []string) error {
	_ = c.SetDeadline(time.Now().Add(rig.Patience))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		return err
	}
	res, err := nethttp.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	for _, b := range bodies {
		if res.StatusCode == 200 && string(text) == b && !res.Close {
			return nil
		}
	}
	return fmt.Errorf("%s %q, closes: %v", res.Status, text, res.Close)
}

// goesOn waits until n more requests were answered.
func (l *load) goesOn(n int64) {
	l.t.Helper()
	goal := l.requests.Load() + n
	rig.Until(l.t, strconv.FormatInt(n, 10)+" more requests are answered", func() error {
		if got := l.requests.Load(); got < goal && l.failed.Load() == 0 {
			return fmt.Errorf("%d of %d", got, goal)
		}
		return nil
	})
}

// end stops the load, and returns how many requests there were.
func (l *load) end() int64 {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.all.Wait()
	return l.requests.Load()
}
