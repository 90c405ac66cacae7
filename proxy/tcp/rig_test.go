// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"context"
	"io"
	"math"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pillion/proxy/cluster"
	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Proxy whose connections to hosts are what dial makes.
type rig struct {
	t        testing.TB
	cfg      *Config
	proxy    *Proxy
	tracker  *Tracker
	clusters *cluster.Manager
	told     *told
	served   sync.WaitGroup
}

// dialer makes the connection to a host.
type dialer func(ctx context.Context, address string) (net.Conn, error)

// newRig returns a proxy for one cluster "c" of hosts, and others, which have the host
// that they are named after. set changes its configuration. A test in a bubble of
// synctest must call end.
func newRig(t testing.TB, dial dialer, hosts []string, set func(*Config), others ...string) *rig {
	r := &rig{t: t, tracker: NewTracker(), told: &told{}}
	r.clusters = cluster.NewManager(cluster.Options{SweepInterval: 1000 * time.Hour, Random: func() uint64 { return math.MaxUint64 },
		Dial: func(ctx context.Context, address string, _ *pool.Socket) (net.Conn, error) { return dial(ctx, address) }})
	all := []*cluster.Config{hostsOf("c", hosts...)}
	for _, name := range others {
		all = append(all, hostsOf(name, name))
	}
	if err := r.clusters.Apply(all); err != nil {
		t.Fatal(err)
	}
	r.cfg = &Config{Targets: []Target{{Cluster: r.clusters.Slot("c"), Weight: 1}}, MaxConnectAttempts: 1,
		Filters: []filter.ConnectionFilter{r.told}, Stats: &Stats{}}
	if set != nil {
		set(r.cfg)
	}
	r.proxy = New(r.cfg, r.tracker)
	return r
}

// end waits until nothing is served any more.
func (r *rig) end() {
	r.tracker.Close()
	r.served.Wait()
	r.clusters.Close()
	if n := r.tracker.Count(); n != 0 {
		r.t.Errorf("%d connections are left", n)
	}
	if n := r.cfg.Stats.CxActive.Value(); n != 0 {
		r.t.Errorf("%d connections are counted as open", n)
	}
	for _, c := range r.clusters.Clusters() {
		if s := c.Status(); len(s.Hosts) > 0 && s.Hosts[0].CxActive != 0 {
			r.t.Errorf("%d connections to %s are left", s.Hosts[0].CxActive, s.Name)
		}
	}
}

// hostsOf is a cluster of hosts that are taken in their order.
func hostsOf(name string, hosts ...string) *cluster.Config {
	c := &cluster.Config{Name: name, Discovery: cluster.EDS, Conn: pool.Defaults(), Endpoints: []cluster.Endpoint{}}
	for _, h := range hosts {
		c.Endpoints = append(c.Endpoints, cluster.Endpoint{Address: h})
	}
	return c
}

// serve has one connection served; outcome is what a listener's log hears, once done is
// closed.
func (r *rig) serve(nc net.Conn) (info *http.ConnInfo, done <-chan struct{}) {
	info = &http.ConnInfo{Local: "10.0.0.9:15001", Remote: "10.0.0.1:4711", Logged: true}
	over := make(chan struct{})
	r.served.Go(func() {
		defer close(over)
		r.proxy.Serve(nc, info).Run()
	})
	return info, over
}

// told is a filter that takes down what it is told.
type told struct {
	mu     sync.Mutex
	events []filter.Connection // guarded by mu
}

func (f *told) OnConnection(c *filter.Connection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, *c)
}

// all returns what there was, and forgets it.
func (f *told) all() []filter.Connection {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.events
	f.events = nil
	return e
}

// pipes makes connections in memory; the far ends of those to hosts come from far.
// In-memory pairs have no half-close.
func pipes() (dial dialer, far <-chan net.Conn) {
	c := make(chan net.Conn, 100)
	return func(context.Context, string) (net.Conn, error) {
		near, far := net.Pipe()
		c <- far
		return near, nil
	}, c
}

// sockets is pipes over loopback.
func sockets(t testing.TB) (dial dialer, far <-chan *net.TCPConn) {
	c := make(chan *net.TCPConn, 100)
	return func(context.Context, string) (net.Conn, error) {
		near, far := socketPair(t)
		c <- far
		return near, nil
	}, c
}

// socketPair is a TCP connection of this process to itself.
func socketPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, nc := range []net.Conn{dialled, accepted} {
		t.Cleanup(func() { _ = nc.Close() })
		_ = nc.SetDeadline(time.Now().Add(20 * time.Second)) // a test that hangs says where
	}
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// send writes a text to nc, and get reads one of that length.
func send(t testing.TB, nc net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatalf("sending %q: %v", text, err)
	}
}

func get(t testing.TB, nc net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}
