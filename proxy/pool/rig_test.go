// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"pillion/proxy/http"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipes is a DialFunc whose connections are in memory, so that tests can run
// on virtual time. Their far ends answer nothing.
type pipes struct {
	mu     sync.Mutex
	dialed []string   // addresses in order
	far    []net.Conn // the hosts' ends
	// block, when it is not nil, holds back each dial until it can receive.
	block chan struct{}
	fail  error
}

func (p *pipes) dial(ctx context.Context, address string, _ *Socket) (net.Conn, error) {
	if p.block != nil {
		select {
		case <-p.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if p.fail != nil {
		return nil, p.fail
	}
	near, far := net.Pipe()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialed = append(p.dialed, address)
	p.far = append(p.far, far)
	return near, nil
}

func (p *pipes) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.dialed)
}

// rig is a group with pools to hosts a, b, c… over a dial function.
type rig struct {
	Group
	st    *Stats
	sw    *Sweeper
	hosts []*Pool
}

// every is the sweep's interval; long enough to never come in most tests.
func newRig(t testing.TB, s Settings, dial DialFunc, every time.Duration, hosts ...string) *rig {
	r := &rig{st: &Stats{}, sw: NewSweeper(every)}
	r.Init(&s, r.st, r.sw, dial)
	for _, h := range hosts {
		p := &Pool{}
		p.Init(&r.Group, Target{Address: h})
		r.hosts = append(r.hosts, p)
	}
	t.Cleanup(r.close)
	return r
}

func (r *rig) close() {
	r.Group.Close()
	select {
	case <-r.sw.stop:
	default:
		r.sw.Close()
	}
}

// must acquires at once or fails the test.
func (r *rig) must(t testing.TB, host int) *Conn {
	t.Helper()
	c, err := r.hosts[host].Acquire(http.Now()+int64(5*time.Second), nil, http.MethodGet)
	if err != nil {
		t.Fatalf("acquire from host %d: %v", host, err)
	}
	return c
}

// server is an HTTP/1 host that answers each request with its body and obeys
// a script of when to close.
type server struct {
	net.Listener
	handle func(net.Conn)
	wg     sync.WaitGroup
	open   atomic.Int32
	most   atomic.Int32 // largest value of open
	mu     sync.Mutex
	conns  []net.Conn
}

func serve(t testing.TB, handle func(net.Conn)) *server {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l, handle: handle}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			n := s.open.Add(1)
			for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
			}
			s.mu.Lock()
			s.conns = append(s.conns, nc)
			s.mu.Unlock()
			s.wg.Go(func() {
				defer s.open.Add(-1)
				defer nc.Close()
				s.handle(nc)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait() // so that closeAll misses no connection
		s.closeAll()
		s.wg.Wait()
	})
	return s
}

func (s *server) addr() string { return s.Addr().String() }

func (s *server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, nc := range s.conns {
		_ = nc.Close()
	}
	s.conns = nil
}

// readRequest consumes a request of send and reports whether one came.
func readRequest(nc net.Conn, buf []byte) bool {
	n := 0
	for n < 4 || string(buf[n-4:n]) != "\r\n\r\n" {
		m, err := nc.Read(buf[n:])
		if err != nil {
			return false
		}
		n += m
	}
	return true
}

const answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

// forever answers until the client closes.
func forever(nc net.Conn) {
	buf := make([]byte, 1024)
	for readRequest(nc, buf) {
		if _, err := io.WriteString(nc, answer); err != nil {
			return
		}
	}
}

// send makes a request without a body on c and reads the answer.
func send(c *Conn, m http.Method) (reusable bool, err error) {
	raw := map[http.Method]string{http.MethodGet: "GET", http.MethodPost: "POST"}[m]
	req := http.RequestHead{Method: m, RawMethod: []byte(raw), Authority: []byte("a"), Path: []byte("/"),
		Protocol: http.HTTP11, KeepAlive: true}
	c.H1.Begin()
	_ = c.H1.WriteHead(&req, true)
	var resp http.ResponseHead
	if err := c.H1.ReadHead(&resp); err != nil {
		end(c)
		return false, err
	}
	for {
		if _, err := c.H1.ReadBody(); err == io.EOF {
			return end(c), nil
		} else if err != nil {
			end(c)
			return false, err
		}
	}
}

func end(c *Conn) (reusable bool) {
	reusable, head := c.H1.End()
	head.Release()
	return reusable
}

// pass lets virtual time go by, and all that is due then happen.
func pass(d time.Duration) {
	<-time.NewTimer(d).C
	synctest.Wait()
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("never: %s", what)
		}
	}
}
