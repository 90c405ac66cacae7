// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pillion/test/rig"
	"pillion/test/wire"
)

// diffCase is one exchange that is made through a real Envoy and through the
// proxy, both with what was made of the same YAML. Besides being compared
// with each other, both have to answer as the case says, so that two wrong
// answers don't pass for a right one.
type diffCase struct {
	name string
	raw  string // the request; {{case}} stands for the name
	// run makes the exchange where one request and one response aren't all;
	// nil sends raw and reads the response.
	run func(c *wire.Client, raw string) (*wire.Response, error)

	status int    // of the response
	origin string // who has to get the request; "" nobody
	route  string // what x-route of the response has to be
	tries  int    // how many requests the origin gets; 0 is one, or none without an origin
	target string // request target at the origin, where it has to be a certain one
	host   string // Host at the origin, likewise
	closes bool   // the proxy has to close the connection afterwards
}

// request builds the raw form of a case.
func request(method, host, target string, fields ...string) string {
	return requestWithBody(method, host, target, "", fields...)
}

func requestWithBody(method, host, target, body string, fields ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nx-case: {{case}}\r\n", method, target, host)
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.String()
}

// diffLab is a real Envoy and the proxy beside it, before the same origins.
type diffLab struct {
	envoy, ours string // addresses of the forward proxies
	elsewhere   string // address of origin v1, as a client would name it

	mu   sync.Mutex
	seen map[string][]*wire.Request // guarded by mu; by case
	held chan struct{}              // closed to let held answers go; guarded by mu
}

// newDiffLab starts everything. flags go to the proxy and to the translation.
func newDiffLab(t *testing.T, folder string, flags ...string) *diffLab {
	t.Helper()
	lab := &diffLab{seen: map[string][]*wire.Request{}, held: make(chan struct{})}
	v1 := wire.NewOrigin(t, "v1", "127.0.0.1:0", lab.answer)
	v2 := wire.NewOrigin(t, "v2", "127.0.0.1:0", lab.answer)
	_, gone, _ := strings.Cut(rig.FreeAddr(t), ":")
	lab.elsewhere = v1.Addr

	dir := t.TempDir()
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata/%s holds no YAML (%v)", folder, err)
	}
	for _, file := range files {
		text := fillText(t, file, "v1", v1.Port(), "v2", v2.Port(), "gone", gone)
		write(t, filepath.Join(dir, filepath.Base(file)), text)
	}
	lab.envoy, lab.ours = startBoth(t, dir, flags...)
	return lab
}

// startBoth starts the proxy and a real Envoy with what is made of the YAML in
// dir, and returns the addresses of their forward proxies.
func startBoth(t *testing.T, dir string, flags ...string) (envoy, ours string) {
	t.Helper()
	ours = rig.Start(t, binaries.Static(t), rig.Options{Args: flags}, dir).HTTP
	return startEnvoy(t, flags, dir).HTTP, ours
}

// answer is the handler of both origins: it keeps what it saw and answers as
// the request's x-reply says. Several replies joined by + are for the first
// try, the second one and so on; the last one stays.
func (lab *diffLab) answer(w io.Writer, r *wire.Request) error {
	name := r.Fields.Get("x-case")
	lab.mu.Lock()
	lab.seen[name] = append(lab.seen[name], r)
	try := len(lab.seen[name]) - 1
	held := lab.held
	lab.mu.Unlock()

	scripts := strings.Split(r.Fields.Get("x-reply"), "+")
	script := scripts[min(try, len(scripts)-1)]
	if script == "hold" {
		<-held
		script = ""
	}
	reply, ok := replies[script]
	if !ok {
		return wire.Answer(w, r, 599, "there is no reply "+script)
	}
	return reply(w, r)
}

// side is what one of the two proxies did with a case.
type side struct {
	resp   *wire.Response
	err    error
	closed error // why the connection isn't closed; nil where it is or nobody asked
	seen   []*wire.Request
}

// through makes the exchange through the proxy at addr.
func (lab *diffLab) through(addr string, c diffCase) side {
	lab.mu.Lock()
	lab.held = make(chan struct{})
	lab.mu.Unlock()
	var s side
	raw := strings.ReplaceAll(c.raw, "{{case}}", c.name)
	client, err := wire.Dial(addr, rig.Patience)
	if err != nil {
		return side{err: err}
	}
	defer client.Close()
	if c.run != nil {
		s.resp, s.err = c.run(client, raw)
	} else if s.err = client.Send(raw); s.err == nil {
		method, _, _ := strings.Cut(raw, " ")
		s.resp, s.err = client.Read(method)
	}
	if c.closes && s.err == nil {
		_, s.closed = client.WaitClosed()
	}
	lab.release()
	lab.mu.Lock()
	defer lab.mu.Unlock()
	s.seen = lab.seen[c.name]
	delete(lab.seen, c.name)
	return s
}

// release lets answers go that are held.
func (lab *diffLab) release() {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	select {
	case <-lab.held:
	default:
		close(lab.held)
	}
}

// waitSeen waits until an origin has seen n requests of a case.
func (lab *diffLab) waitSeen(name string, n int) error {
	return rig.Await(func() error {
		lab.mu.Lock()
		defer lab.mu.Unlock()
		return wantCount(len(lab.seen[name]), n)
	})
}

// check compares one side with what the case says.
func (c diffCase) check(t *testing.T, who string, s side) {
	t.Helper()
	if s.err != nil {
		t.Errorf("%s: %v", who, s.err)
		return
	}
	if s.resp.Status != c.status {
		t.Errorf("%s answers %d, want %d; body %.200q", who, s.resp.Status, c.status, s.resp.Body)
	}
	if route := s.resp.Fields.Get("x-route"); route != c.route {
		t.Errorf("%s took route %q, want %q", who, route, c.route)
	}
	tries := c.tries
	if tries == 0 && c.origin != "" {
		tries = 1
	}
	if len(s.seen) != tries {
		t.Errorf("%s: the origins saw %d requests, want %d", who, len(s.seen), tries)
	}
	for _, r := range s.seen {
		if r.Origin != c.origin {
			t.Errorf("%s went to %s, want %s", who, r.Origin, c.origin)
		}
		if c.target != "" && r.Target != c.target {
			t.Errorf("%s: the origin saw target %q, want %q", who, r.Target, c.target)
		}
		if host := strings.Join(r.Fields.Values("host"), " "); c.host != "" && host != c.host {
			t.Errorf("%s: the origin saw Host %q, want %q", who, host, c.host)
		}
	}
	if s.closed != nil {
		t.Errorf("%s: %v, want it closed", who, s.closed)
	}
}

// sides reports where the two sides differ and no allowance says why.
func (c comparison) sides(envoy, ours side) {
	c.t.Helper()
	c.text("reason phrase", envoy.resp.Reason, ours.resp.Reason)
	c.text("framing of the response", string(envoy.resp.Framing), string(ours.resp.Framing))
	c.text("body of the response", string(envoy.resp.Body), string(ours.resp.Body))
	c.text("interim responses", interimStatuses(envoy.resp), interimStatuses(ours.resp))
	c.fields("response", envoy.resp.Fields, ours.resp.Fields)
	c.fields("response trailer", envoy.resp.Trailers, ours.resp.Trailers)
	for i := range min(len(envoy.seen), len(ours.seen)) {
		a, b := envoy.seen[i], ours.seen[i]
		c.text("request line at the origin", a.Start, b.Start)
		c.text("framing of the request at the origin", string(a.Framing), string(b.Framing))
		c.text("body of the request at the origin", string(a.Body), string(b.Body))
		c.fields("request", a.Fields, b.Fields)
		c.fields("request trailer", a.Trailers, b.Trailers)
	}
}

func interimStatuses(r *wire.Response) string {
	var all []int
	for _, i := range r.Interim {
		all = append(all, i.Status)
	}
	return fmt.Sprint(all)
}

// run makes every case through both proxies, one after the other, so that
// what an origin sees belongs to one of them. It returns which allowances were
// made use of, and whether all cases ran.
func (lab *diffLab) run(t *testing.T, cases []diffCase) (used map[int]bool, whole bool) {
	ran, names := 0, map[string]bool{}
	used = map[int]bool{}
	for _, c := range cases {
		if names[c.name] {
			t.Fatalf("two cases are called %s", c.name)
		}
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			ran++
			envoy, ours := lab.through(lab.envoy, c), lab.through(lab.ours, c)
			c.check(t, "Envoy", envoy)
			c.check(t, "ours", ours)
			if envoy.err == nil && ours.err == nil {
				comparison{t, c.name, allowances, used}.sides(envoy, ours)
			}
		})
	}
	return used, ran == len(cases)
}

func TestDifferential(t *testing.T) {
	t.Parallel()
	lab := newDiffLab(t, "differential", "--labels", "app=client")
	cases := slices.Concat(matchCases(), lab.strangerCases(), actionCases(), retryCases(), targetCases(), fieldCases(), framingCases(), failureCases(lab))
	if len(cases) < 150 {
		t.Errorf("there are %d cases, want at least 150", len(cases))
	}
	used, whole := lab.run(t, cases)
	for i, l := range allowances {
		if whole && !used[i] && !t.Failed() {
			t.Errorf("nothing differs any more where %s %s may (%s): take the allowance away", l.where, l.field, l.why)
		}
	}
}

// TestDifferentialRegistryOnly is the same where hosts outside of the mesh
// may not be reached.
func TestDifferentialRegistryOnly(t *testing.T) {
	t.Parallel()
	lab := newDiffLab(t, "registry-only")
	refused := func(name, method, host string) diffCase {
		return diffCase{name: name, raw: request(method, host, "/"), status: 502}
	}
	lab.run(t, []diffCase{
		{name: "known host", raw: request("GET", "plain", "/"), status: 200, origin: "v1"},
		refused("address that nobody knows", "GET", lab.elsewhere),
		refused("name that nobody knows", "GET", "nowhere.example.com"),
		refused("name that nobody knows, HEAD", "HEAD", "nowhere.example.com"),
		refused("host out of scope", "GET", "remote.other.svc.cluster.local"),
		refused("port that the service doesn't have", "GET", "plain:81"),
		{name: "absolute form of an unknown host", raw: request("GET", "plain", "http://nowhere.example.com/"), status: 502},
	})
}
