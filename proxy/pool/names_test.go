// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/proxytest"
	"pillion/proxy/tls"
)

// namedRig is a pool of connections with TLS to a host that answers nothing.
func namedRig(t *testing.T, change func(*Settings)) (*rig, *Pool) {
	t.Helper()
	s := httptest.NewUnstartedServer(nethttp.HandlerFunc(func(nethttp.ResponseWriter, *nethttp.Request) {}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	settings := Defaults()
	settings.AutoSNI = true
	change(&settings)
	r := newRig(t, settings, nil, time.Hour, s.Listener.Addr().String())
	p := r.hosts[0]
	p.Secure(newTLSClient(t))
	return r, p
}

func newTLSClient(t *testing.T) *tls.Client {
	t.Helper()
	c, err := tls.NewClient(tls.ClientConfig{}, tls.NewSecrets())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func get(t *testing.T, p *Pool, authority string) *Conn {
	t.Helper()
	c, err := p.For([]byte(authority)).Acquire(http.Now()+int64(10*time.Second), nil, http.MethodGet)
	if err != nil {
		t.Fatalf("%s: %v", authority, err)
	}
	return c
}

// TestNamesApart: a connection serves requests to its own name alone, and counts
// for its host.
func TestNamesApart(t *testing.T) {
	r, p := namedRig(t, func(*Settings) {})
	a, b := get(t, p, "a.test:443"), get(t, p, "b.test")
	if p.Open() != 2 || p.Idle() != 0 || p.Stats.RqActive.Value() != 2 || p.Stats.CxTotal.Value() != 2 {
		t.Errorf("open %d, idle %d, %+v", p.Open(), p.Idle(), &p.Stats)
	}
	a.Pool().Put(a, true)
	b.Pool().Put(b, true)
	if again := get(t, p, "A.test"); again != a {
		t.Error("the connection of a name isn't used again")
	} else {
		again.Pool().Put(again, true)
	}
	if get(t, p, "c.test") == b || p.Open() != 3 || p.Idle() != 2 {
		t.Errorf("open %d, idle %d", p.Open(), p.Idle())
	}
	p.Secure(newTLSClient(t))
	if p.Idle() != 0 || p.Open() != 1 {
		t.Errorf("after a change of TLS %d are idle, %d open", p.Idle(), p.Open())
	}
	again := get(t, p, "b.test")
	again.Pool().Put(again, true)
	p.Close()
	if p.Idle() != 0 || r.Open() != 1 {
		t.Errorf("after the host left %d are idle, %d open", p.Idle(), r.Open())
	}
	late := get(t, p, "d.test")
	late.Pool().Put(late, true)
	if p.Idle() != 0 {
		t.Error("a name that came after the host left keeps a connection")
	}
}

// TestNamesBounded: clients can make up any number of names; what is kept is
// bounded, and what was in use of a name that had to go is served to its end.
func TestNamesBounded(t *testing.T) {
	r, p := namedRig(t, func(s *Settings) { s.MaxConnections = NoLimit })
	held := get(t, p, "held.test")
	for i := range 3 * maxNames {
		c := get(t, p, fmt.Sprintf("n%d.test", i))
		c.Pool().Put(c, true)
	}
	if n := len(p.names.byName); n != maxNames {
		t.Errorf("%d names are kept", n)
	}
	if n := r.Open(); n > maxNames+1 {
		t.Errorf("%d connections are open", n)
	}
	if p.names.byName["held.test"] != nil {
		t.Error("the name that was used least recently is kept")
	}
	held.Pool().Put(held, true)
	if n := r.Open(); n != maxNames {
		t.Errorf("%d connections are open after the last request of a name that went", n)
	}
	proxytest.NoAllocs(t, "finding a name", func() { p.For([]byte("n190.test:443")) })
}

// TestNamesOfStreams: the same over HTTP/2.
func TestNamesOfStreams(t *testing.T) {
	_, p := namedRig(t, func(s *Settings) { s.ALPN = &ALPN{HTTP2: []string{"h2"}} })
	var conns []*StreamConn
	for _, name := range []string{"a.test", "b.test", "a.test"} {
		c, err := p.For([]byte(name)).AcquireStream(http.Now()+int64(10*time.Second), nil)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if conns[0] == conns[1] || conns[0] != conns[2] || p.Stats.RqActive.Value() != 3 {
		t.Errorf("connections %p, %d requests", conns, p.Stats.RqActive.Value())
	}
	for _, c := range conns {
		c.Pool().PutStream(c)
	}
	p.Close()
}

// TestOffer holds what handshakes say and check, and what isn't connected to.
func TestOffer(t *testing.T) {
	long := strings.Repeat("a.", 128) + "test"
	for _, c := range []struct {
		authority, service string
		sni, san           bool
		wantSNI, wantSAN   string
		err                error
	}{
		{"a.test:80", "", true, true, "a.test", "a.test", nil},
		{"a.test", "svc", true, false, "a.test", "", nil},
		{"a.test", "", false, true, "", "a.test", nil},
		{"10.0.0.1:80", "", true, true, "", "10.0.0.1", nil},
		{"[::1]:80", "", true, true, "", "::1", nil},
		{"10.0.0.1:80", "svc", true, true, "svc", "svc", nil},
		{"localhost:80", "svc", true, true, "svc", "svc", nil},
		{"localhost", "", true, true, "localhost", "localhost", nil},
		{"", "svc", true, true, "svc", "svc", nil},
		{"", "", true, false, "", "", nil},
		{"", "", true, true, "", "", errNoName},
		{":80", "", true, true, "", "", errNoName},
		{long, "", true, false, "", "", errLongName},
	} {
		r := newRig(t, Settings{AutoSNI: c.sni, AutoSAN: c.san, ServerName: c.service}, nil, time.Hour, "h")
		r.hosts[0].Secure(newTLSClient(t))
		o, err := r.hosts[0].For([]byte(c.authority)).offer(r.Settings(), []string{"x"})
		if err != c.err || err == nil && (o.ServerName != c.wantSNI || o.VerifySAN != c.wantSAN || len(o.ALPN) != 1) {
			t.Errorf("%q, %q, %t, %t: %+v, %v", c.authority, c.service, c.sni, c.san, o, err)
		}
	}
	plain := newRig(t, Settings{AutoSNI: true}, nil, time.Hour, "h").hosts[0]
	if plain.For([]byte("a.test")) != plain {
		t.Error("plain connections are kept apart by name")
	}
}
