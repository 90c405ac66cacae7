// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// acceptor is a server at one address, so that clients have a session to it.
type acceptor struct {
	addr string
	last atomic.Pointer[Conn]
	errs atomic.Pointer[error]
}

func serve(t testing.TB, s *Server) *acceptor {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &acceptor{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { ln.Close(); cancel(); wg.Wait() })
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				c, err := s.Handshake(ctx, nc)
				if err != nil {
					a.errs.Store(&err)
					return
				}
				a.last.Store(c)
				p := make([]byte, 4096)
				for {
					n, err := c.Read(p)
					if err != nil {
						return
					}
					if _, err := c.Write(p[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return a
}

// echo makes a connection, has an octet come back and closes it.
func (a *acceptor) echo(t testing.TB, c *Client) (*Conn, error) {
	t.Helper()
	nc, err := net.Dial("tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := c.Handshake(ctx, nc, ClientOptions{})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte{'x'}); err != nil {
		return conn, err
	}
	_, err = conn.Read(make([]byte, 1))
	return conn, err
}

func TestResumption(t *testing.T) {
	for name, max := range map[string]Version{"TLS 1.2": Version12, "TLS 1.3": Version13} {
		t.Run(name, func(t *testing.T) { testResumption(t, max) })
	}
}

func testResumption(t *testing.T, version Version) {
	ca, next := newTestCA(t, "root"), newTestCA(t, "next")
	c, s, cs, ss := mesh(t, ca)
	c.base.MaxVersion = uint16(version)
	a := serve(t, s)
	step := func(what string, resumed bool) {
		t.Helper()
		conn, err := a.echo(t, c)
		if err != nil {
			t.Fatalf("%s: %v (server: %v)", what, err, a.errs.Load())
		}
		if got := conn.Info().Resumed; got != resumed {
			t.Errorf("%s: resumed %v, want %v", what, got, resumed)
		}
		if i := a.last.Load().Info(); i.Peer == nil || i.Peer.URIs[0] != clientID || !i.PeerVerified {
			t.Errorf("%s: the server sees %+v", what, i.Peer)
		}
	}
	step("first", false)
	step("second", true)

	// A server that renews its own certificate keeps its clients' sessions.
	if err := ss.cert.SetKeyPair(ca.issue(serverID, nil), serverID, "test"); err != nil {
		t.Fatal(err)
	}
	step("the server's certificate renewed", true)

	// A client that renews its certificate shows it at once.
	renewed := ca.issue(clientID, nil)
	if err := cs.cert.SetKeyPair(renewed, clientID, "test"); err != nil {
		t.Fatal(err)
	}
	step("the client's certificate renewed", false)
	if got, want := a.last.Load().Info().Peer.Serial, leafOf(t, renewed).SerialNumber.Text(16); got != want {
		t.Errorf("the server sees certificate %s, not %s", got, want)
	}
	step("and again", true)

	// Both CAs are trusted while the mesh goes over to the new one.
	ss.anchor(t, Anchors{CA: append(append([]byte(nil), ca.pem...), next.pem...)})
	step("two roots", false)

	// The old CA is gone: a session that it vouched for is worth nothing.
	ss.anchor(t, Anchors{CA: next.pem})
	if _, err := a.echo(t, c); err == nil {
		t.Error("a session of the old CA's time is resumed")
	}
	// The server counts when the client knows already.
	until(t, "the refusal is counted", func() bool { return s.Stats().failError.Value() == 1 })
}

// TestStolenTicket: even a ticket that opens is not enough: the peer that it
// names is checked against the anchors of today.
func TestStolenTicket(t *testing.T) {
	ca, next := newTestCA(t, "root"), newTestCA(t, "next")
	c, s, _, ss := mesh(t, ca)
	a := serve(t, s)
	if _, err := a.echo(t, c); err != nil {
		t.Fatal(err)
	}
	old := s.now.Load()
	ss.anchor(t, Anchors{CA: next.pem})
	in, err := load(s.cfg.Certificates, s.cfg.Validation, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := s.make(in, old)
	b.tickets = old.tickets // as if the keys had not gone with the anchors
	s.now.Store(b)
	if _, err := a.echo(t, c); err == nil {
		t.Error("the session is resumed")
	}
}

// TestVerdictGone: a session whose client would have to be checked again, as
// when a CRL is out of date, is not resumed; the client gets a full handshake.
func TestVerdictGone(t *testing.T) {
	c, s, _, _ := mesh(t, newTestCA(t, "root"))
	a := serve(t, s)
	for i, want := range []bool{false, true, false, true} {
		if i == 2 {
			f := s.now.Load().verify
			f.mu.Lock()
			clear(f.good)
			f.mu.Unlock()
		}
		conn, err := a.echo(t, c)
		if err != nil || conn.Info().Resumed != want {
			t.Errorf("%d: %v, resumed %v", i, err, !want)
		}
	}
}

func TestNoResumption(t *testing.T) {
	ca := newTestCA(t, "root")
	_, _, cs, ss := mesh(t, ca)
	s := mustServer(t, ServerConfig{Certificates: []*Secret{ss.cert}, NoTickets: true})
	c := mustClient(t, ClientConfig{Validation: &Validation{Anchors: cs.root}}, cs.Secrets)
	a := serve(t, s)
	for range 3 {
		if conn, err := a.echo(t, c); err != nil || conn.Info().Resumed {
			t.Errorf("%v, resumed", err)
		}
	}
	s = mustServer(t, ServerConfig{Certificates: []*Secret{ss.cert}})
	c = mustClient(t, ClientConfig{NoSessions: true, Validation: &Validation{Anchors: cs.root}}, cs.Secrets)
	a = serve(t, s)
	for range 3 {
		if conn, err := a.echo(t, c); err != nil || conn.Info().Resumed {
			t.Errorf("%v, resumed", err)
		}
	}
	// A session that is older than session_timeout is opened anew.
	s = mustServer(t, ServerConfig{Certificates: []*Secret{ss.cert}, SessionTimeout: time.Nanosecond})
	c = mustClient(t, ClientConfig{Validation: &Validation{Anchors: cs.root}}, cs.Secrets)
	a = serve(t, s)
	for range 3 {
		if conn, err := a.echo(t, c); err != nil || conn.Info().Resumed {
			t.Errorf("%v, resumed", err)
		}
	}
}

// TestRotationUnderLoad renews both ends' certificates, and goes over to
// another CA and back by way of both, while connections are made: none fails.
func TestRotationUnderLoad(t *testing.T) {
	ca, next := newTestCA(t, "root"), newTestCA(t, "next")
	c, s, cs, ss := mesh(t, ca)
	a := serve(t, s)
	both := Anchors{CA: append(append([]byte(nil), ca.pem...), next.pem...)}
	cs.anchor(t, both)
	ss.anchor(t, both)
	results, done := make(chan error), make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				_, err := a.echo(t, c)
				select {
				case <-done:
					return
				case results <- err:
				}
			}
		})
	}
	defer wg.Wait()
	defer close(done)
	for i := range 40 {
		signer := ca
		if i/10%2 == 1 {
			signer = next
		}
		for _, err := range []error{cs.cert.SetKeyPair(signer.issue(clientID, nil), clientID, "test"), ss.cert.SetKeyPair(signer.issue(serverID, nil), serverID, "test")} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for range 8 { // connections of each generation, and some across two
			if err := <-results; err != nil {
				t.Fatalf("generation %d: %v", i, err)
			}
		}
	}
}
