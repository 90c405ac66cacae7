// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pillion/proxy/cluster"
	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/pool"
)

// clientOf returns a client of a cluster whose one host is at addr. dial nil
// is the real one.
func clientOf(t *testing.T, addr string, http2 bool, dial pool.DialFunc) (*Client, *cluster.Cluster, func()) {
	t.Helper()
	m := cluster.NewManager(cluster.Options{Dial: dial, SweepInterval: time.Hour})
	cfg := &cluster.Config{Name: "c", Discovery: cluster.EDS, Conn: pool.Defaults(),
		Breakers:  cluster.Breakers{MaxRequests: 100, MaxRetries: 3},
		Endpoints: []cluster.Endpoint{{Address: addr}}}
	if http2 {
		cfg.Conn.Speaks = pool.SpeaksHTTP2
	}
	if err := m.Apply([]*cluster.Config{cfg}); err != nil {
		t.Fatal(err)
	}
	return NewClient(m.Slot("c")), m.Get("c"), m.Close
}

// listen serves h until the test ends.
func listen(t *testing.T, http2 bool, h nethttp.HandlerFunc) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &nethttp.Protocols{}
	p.SetUnencryptedHTTP2(http2)
	p.SetHTTP1(!http2)
	srv := &nethttp.Server{Handler: h, Protocols: p}
	done := make(chan struct{})
	go func() {
		_ = srv.Serve(ln)
		close(done)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return ln.Addr().String()
}

func TestClient(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%t", http2), func(t *testing.T) {
			addr := listen(t, http2, func(w nethttp.ResponseWriter, r *nethttp.Request) {
				body, _ := io.ReadAll(r.Body)
				w.Header().Set("x-saw", fmt.Sprintf("%s %s %s %d %s %s.", r.Method, r.URL, r.Host, r.ContentLength, r.Header.Get("x-a"), body))
				w.WriteHeader(299)
				_, _ = io.WriteString(w, strings.Repeat("x", 3000))
				w.Header().Set(nethttp.TrailerPrefix+"x-trailer", "t")
			})
			c, cl, stop := clientOf(t, addr, http2, nil)
			defer stop()
			for _, tc := range []struct {
				call filter.ClientCall
				saw  string
			}{
				{filter.ClientCall{Method: "GET", Path: "/p?q", Authority: "a.b"}, "GET /p?q a.b 0 v ."},
				{filter.ClientCall{Method: "POST", Path: "/", Authority: "a", HasBody: true, Body: []byte("hello")}, "POST / a 5 v hello."},
				{filter.ClientCall{Method: "PUT", Path: "/", Authority: "a", HasBody: true, Body: []byte("hello"), Multi: true}, "PUT / a -1 v hello."},
				{filter.ClientCall{Method: "POST", Path: "/", Authority: "a", HasBody: true}, "POST / a 0 v ."},
			} {
				tc.call.MaxBody, tc.call.Timeout = 3000, time.Minute
				tc.call.Fields.Add([]byte("x-a"), []byte("v"))
				a, err := c.Do(&tc.call)
				if err != nil {
					t.Fatal(err)
				}
				saw, _ := a.Fields.Lookup(http.HeaderOther, []byte("x-saw"))
				trailer, _ := a.Trailers.Lookup(http.HeaderOther, []byte("x-trailer"))
				if string(saw) != tc.saw || a.Status != 299 || len(a.Body) != 3000 || string(trailer) != "t" {
					t.Errorf("%q, %d, %d octets, trailer %q; want %q", saw, a.Status, len(a.Body), trailer, tc.saw)
				}
				tc.call.MaxBody = 2999
				if _, err := c.Do(&tc.call); err != errTooLong {
					t.Errorf("a body beyond the limit: %v", err)
				}
			}
			if n := cl.Stats.RqTotal.Value(); n != 8 {
				t.Errorf("upstream_rq_total is %d", n)
			}
		})
	}
}

// TestClientRepeats: a connection that the host closed between two requests is
// replaced, for a POST only if the caller says that it may be.
func TestClientRepeats(t *testing.T) {
	var conns atomic.Int32
	dial := func(context.Context, string, *pool.Socket) (net.Conn, error) {
		near, far := net.Pipe()
		first := conns.Add(1) == 1
		go func() {
			defer far.Close()
			rd := bufio.NewReader(far)
			for n := 0; ; n++ {
				req, err := nethttp.ReadRequest(rd)
				if err != nil || first && n == 1 {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(far, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
			}
		}()
		return near, nil
	}
	for _, tc := range []struct {
		method  string
		anyOnce bool
		ok      bool
	}{{"GET", false, true}, {"POST", true, true}, {"POST", false, false}} {
		conns.Store(0)
		c, _, stop := clientOf(t, "10.0.0.1:80", false, dial)
		call := &filter.ClientCall{Method: tc.method, Path: "/", Authority: "a", AnyOnce: tc.anyOnce}
		if _, err := c.Do(call); err != nil {
			t.Fatal(err)
		}
		_, err := c.Do(call)
		if (err == nil) != tc.ok {
			t.Errorf("%s, may be repeated %t: %v", tc.method, tc.anyOnce, err)
		}
		stop()
	}
}

// TestClientGivesUp: a host that is silent, or slow in mid-body, costs the
// call's time and no more, and a cancelled call ends at once.
func TestClientGivesUp(t *testing.T) {
	for name, say := range map[string]string{"silent": "", "in the head": "HTTP/1.1 200 OK\r\nx-", "in the body": "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"} {
		for _, cancelled := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				dial := func(context.Context, string, *pool.Socket) (net.Conn, error) {
					near, far := net.Pipe()
					go func() {
						if _, err := nethttp.ReadRequest(bufio.NewReader(far)); err == nil && say != "" {
							_, _ = io.WriteString(far, say)
						}
						_, _ = io.Copy(io.Discard, far)
						far.Close()
					}()
					return near, nil
				}
				c, _, stop := clientOf(t, "10.0.0.1:80", false, dial)
				defer stop()
				gone := make(chan struct{})
				call := &filter.ClientCall{Method: "GET", Path: "/", Authority: "a", MaxBody: 9, Timeout: 5 * time.Second, Cancel: gone}
				want, after := errTimeout, 5*time.Second
				if cancelled {
					want, after = errCancelled, time.Second
					time.AfterFunc(after, func() { close(gone) })
				}
				begun := time.Now()
				if _, err := c.Do(call); err != want || time.Since(begun) != after {
					t.Errorf("%s: %v after %v, want %v after %v", name, err, time.Since(begun), want, after)
				}
			})
		}
	}
}

func TestClientWithoutHost(t *testing.T) {
	m := cluster.NewManager(cluster.Options{})
	defer m.Close()
	if _, err := NewClient(m.Slot("none")).Do(&filter.ClientCall{Method: "GET", Path: "/"}); err != errNoCluster {
		t.Errorf("no cluster: %v", err)
	}
	refused := func(context.Context, string, *pool.Socket) (net.Conn, error) { return nil, io.ErrClosedPipe }
	c, _, stop := clientOf(t, "10.0.0.1:80", false, refused)
	defer stop()
	if _, err := c.Do(&filter.ClientCall{Method: "GET", Path: "/"}); err == nil || err.Kind != http.KindConnectFailure {
		t.Errorf("refused: %v", err)
	}
}
