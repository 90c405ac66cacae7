// SPDX-License-Identifier: Apache-2.0

package load

import (
	stdtls "crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"pillion/bench/origin"
	"pillion/bench/pki"
)

// startedSealed runs an origin with mutual TLS and returns a load for it.
func startedSealed(t *testing.T) TLSSpec {
	t.Helper()
	g, self, _ := started(t)
	certs, err := pki.Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o, err := origin.StartSealed(g, self, nil, certs)
	if err != nil {
		t.Fatal(err)
	}
	return TLSSpec{
		Request: Request{Addr: o.Addrs[0], Host: "h", Path: "/"}, Connections: 2,
		Certificates: certs, Group: pki.X25519, Duration: 200 * time.Millisecond,
	}
}

func TestTLSModes(t *testing.T) {
	spec := startedSealed(t)
	for _, mode := range []TLSMode{TLSRequests, TLSFull, TLSResumed} {
		spec.Mode = mode
		r, err := RunTLS(t.Context(), spec)
		if err != nil || r.Requests < 2 || r.Errors.Total() > 0 {
			t.Errorf("%s: %d requests, errors %v, %v", mode, r.Requests, r.Errors, err)
		}
		if r.Latency.P50 <= 0 || r.Latency.Max < r.Latency.P50 || r.Duration < spec.Duration {
			t.Errorf("%s: latencies %+v in %v", mode, r.Latency, r.Duration)
		}
	}
}

// serveTLS answers nothing, but makes handshakes, until the test ends.
func serveTLS(t *testing.T, cfg *stdtls.Config, answer string) string {
	t.Helper()
	ln, err := stdtls.Listen("tcp4", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
			go func(c net.Conn) {
				defer c.Close()
				if _, err := c.Read(make([]byte, 1<<10)); err == nil {
					_, _ = c.Write([]byte(answer))
				}
			}(c)
		}
	}()
	return ln.Addr().String()
}

// TestTLSNotAsAsked: a peer that resumes no session, one that answers with an error,
// and one that knows another CA must not be taken for one that does the job.
func TestTLSNotAsAsked(t *testing.T) {
	certs, err := pki.Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server, err := certs.ServerConfig(pki.X25519)
	if err != nil {
		t.Fatal(err)
	}
	server.SessionTicketsDisabled = true
	const ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
	others, err := pki.Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		mode   TLSMode
		certs  pki.Set
		answer string
		want   string
	}{
		{"no session", TLSResumed, certs, ok, "didn't resume"},
		{"status", TLSFull, certs, "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", "status 503"},
		{"another CA", TLSRequests, others, ok, "unknown authority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := RunTLS(t.Context(), TLSSpec{
				Request: Request{Addr: serveTLS(t, server, c.answer), Host: "h", Path: "/"}, Mode: c.mode, Connections: 1,
				Certificates: c.certs, Group: pki.X25519, Duration: 100 * time.Millisecond,
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	for _, bad := range []TLSSpec{{Duration: time.Second}, {Connections: 1}, {Connections: 1, Duration: 1}} {
		if _, err := RunTLS(t.Context(), bad); err == nil {
			t.Errorf("%+v is run", bad)
		}
	}
}

func TestHoldTLS(t *testing.T) {
	spec := startedSealed(t)
	cfg, err := spec.Certificates.ClientConfig(spec.Group)
	if err != nil {
		t.Fatal(err)
	}
	h, err := HoldTLS(t.Context(), spec.Request, 5, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_ = h.conns[0].Close()
	if failed, err := h.Check(t.Context()); failed != 1 || err != nil {
		t.Errorf("%d of %d failed, %v, want the closed one", failed, h.Len(), err)
	}
}
