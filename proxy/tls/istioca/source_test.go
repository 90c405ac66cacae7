// SPDX-License-Identifier: Apache-2.0

package istioca

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"pillion/proxy/tls/localca"
	"pillion/proxy/tls/renew"
	"pillion/proxy/tls/renew/renewtest"
)

func dialer(ln *bufconn.Listener) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }
}

// TestWhatIsAsked looks at the request: the CSR, the metadata, the token as
// its file holds it at that time.
func TestWhatIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := file(t, "  one\n")
		r := newRig(t, Options{TokenFile: token, ClusterID: "lab", Headers: map[string]string{"X-Tenant": "blue"}, TTL: 10 * time.Second, CertSigner: "clusterissuers.example/me"}, nil, newTestCA(t))
		r.start(t)
		<-r.secrets.Secret("default").Ready()
		c := r.ca.asked()[0]
		if len(c.csr.URIs) != 1 || c.csr.URIs[0].String() != renewtest.Own || c.req.ValidityDuration != 10 || c.req.Metadata.GetFields()["CertSigner"].GetStringValue() != "clusterissuers.example/me" {
			t.Errorf("request %v for %v", c.req, c.csr.URIs)
		}
		for k, want := range map[string]string{"authorization": "Bearer one", "clusterid": "lab", "x-tenant": "blue"} {
			if got := c.md.Get(k); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %q, not %q", k, got, want)
			}
		}
		if err := os.WriteFile(token, []byte("two"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		all := r.ca.asked()
		if last := all[len(all)-1]; len(all) != 2 || last.md.Get("authorization")[0] != "Bearer two" {
			t.Errorf("%d requests, the last with %q", len(all), last.md.Get("authorization"))
		} else if last.csr.PublicKey.(*ecdsa.PublicKey).Equal(c.csr.PublicKey) {
			t.Error("the key was used again")
		}
	})
}

func TestKeys(t *testing.T) {
	for _, tc := range []struct {
		kind  KeyKind
		pkcs8 bool
		bits  int
		block string
	}{
		{RSA2048, false, 2048, "RSA PRIVATE KEY"}, {RSA3072, true, 3072, "PRIVATE KEY"}, {P256, false, 256, "EC PRIVATE KEY"}, {P384, false, 384, "EC PRIVATE KEY"}, {P384, true, 384, "PRIVATE KEY"},
	} {
		req, err := newRequest(tc.kind, renewtest.Own, tc.pkcs8)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(req.key), "-----BEGIN "+tc.block+"-----") {
			t.Errorf("%v: %.40s", tc, req.key)
		}
		ca := newTestCA(t)
		chain := ca.sign(t, req)
		got, err := readAnswer(chain, req.key, renewtest.Own, time.Now())
		if err != nil {
			t.Fatalf("%v: %v", tc, err)
		}
		pair, err := stdtls.X509KeyPair(got.chain, got.key)
		if err != nil {
			t.Fatal(err)
		}
		bits := 0
		switch k := pair.PrivateKey.(type) {
		case *rsa.PrivateKey:
			bits = k.N.BitLen()
		case *ecdsa.PrivateKey:
			bits = k.Params().BitSize
		}
		if bits != tc.bits {
			t.Errorf("%v: a key of %d bits", tc, bits)
		}
	}
}

// TestRecall: what an earlier process has written serves while the CA is away, if it is
// this workload's and still good.
func TestRecall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "certs")
		first := newRig(t, Options{OutputDir: out}, nil, newTestCA(t))
		if _, err := first.source.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			name string
			o    Options
			wait time.Duration // from this case on
			log  string        // why it isn't used; empty if it is
		}{
			{"the same workload", Options{OutputDir: out}, 0, ""},
			{"another workload", Options{OutputDir: out, ID: "spiffe://cluster.local/ns/shop/sa/other"}, 0, "ns/shop/sa/other"},
			{"it has expired", Options{OutputDir: out}, time.Hour, "expired"},
		} {
			time.Sleep(tc.wait)
			r := newRig(t, tc.o, nil, newTestCA(t))
			r.source.recall()
			used := r.secrets.Secret("default").Status().Updates == 1 && r.secrets.Secret("ROOTCA").Status().Updates == 1
			if used != (tc.log == "") || !strings.Contains(r.log.String(), tc.log) {
				t.Errorf("%s: it is used: %v\n%s", tc.name, used, r.log.String())
			}
		}
	})
}

// TestRotation: handshakes in both directions go on through hundreds of
// certificates, one every five seconds.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "certs")
		r := newRig(t, Options{OutputDir: out}, nil, newTestCA(t))
		r.start(t)
		<-r.secrets.Secret("default").Ready()
		pair := renewtest.NewPair(t, r.secrets, r.ca.local)
		shakes := 0
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(777 * time.Millisecond) {
			if err := pair.Shake(t.Context()); err != nil {
				t.Fatalf("after %d handshakes: %v", shakes, err)
			}
			shakes++
		}
		now := r.source.Status().Snapshot()
		// Of ten seconds half, give or take a hundredth, is 4.9 to 5.1; X.509
		// has whole seconds.
		if now.Updates < 115 || now.Updates > 150 || len(now.Failures) != 0 || r.secrets.Secret("default").Status().Updates != now.Updates {
			t.Errorf("%+v", now)
		}
		if r.log.Count("ERROR") != 0 {
			t.Errorf("the log:\n%s", r.log.String())
		}
		written, err := stdtls.LoadX509KeyPair(filepath.Join(out, "cert-chain.pem"), filepath.Join(out, "key.pem"))
		if err != nil || !written.Leaf.Equal(r.secrets.Secret("default").Status().Chain[0]) {
			t.Errorf("what is written isn't what is served: %v", err)
		}
		if root, err := os.ReadFile(filepath.Join(out, "root-cert.pem")); err != nil || strings.TrimSpace(string(root)) != strings.TrimSpace(string(r.ca.local.Root())) {
			t.Errorf("root-cert.pem: %v", err)
		}
		if names, err := filepath.Glob(filepath.Join(out, ".*")); err != nil || len(names) != 0 {
			t.Errorf("left behind: %v %v", names, err)
		}
		t.Logf("%d certificates, %d handshakes in each direction", now.Updates, shakes)
	})
}

// TestTrouble: whatever the CA does, the old certificate serves on, the
// reason is counted, said once, and forgotten when the CA is well again.
func TestTrouble(t *testing.T) {
	fail := func(c codes.Code) func(*testCA) {
		return func(ca *testCA) {
			ca.turn = func(context.Context, []string) ([]string, error) { return nil, status.Error(c, "out of order") }
		}
	}
	say := func(f func(chain []string) []string) func(*testCA) {
		return func(ca *testCA) {
			ca.turn = func(_ context.Context, chain []string) ([]string, error) { return f(chain), nil }
		}
	}
	edit := func(f func(*x509.Certificate)) func(*testCA) { return func(ca *testCA) { ca.edit = f } }
	for _, tc := range []struct {
		name    string
		trouble func(*testCA)
		reason  renew.Reason
		// heals: the request is made again at once, five times
		heals bool
	}{
		{"down", fail(codes.Unavailable), renew.Unavailable, true},
		{"overloaded", fail(codes.ResourceExhausted), renew.Unavailable, true},
		{"broken", fail(codes.Internal), renew.Unavailable, true},
		{"refusing", fail(codes.Unauthenticated), renew.Denied, false},
		{"no CA", fail(codes.Unimplemented), renew.Denied, false},
		{"too long a life", fail(codes.InvalidArgument), renew.Invalid, false},
		{"slow", func(ca *testCA) {
			ca.turn = func(ctx context.Context, _ []string) ([]string, error) { <-ctx.Done(); return nil, ctx.Err() }
		}, renew.Slow, false},
		{"no answer", say(func([]string) []string { return nil }), renew.Invalid, false},
		{"no root", say(func(c []string) []string { return c[:1] }), renew.Invalid, false},
		{"garbage", say(func([]string) []string { return []string{"x", "y", "z"} }), renew.Invalid, false},
		{"garbage for roots", say(func(c []string) []string { return []string{c[0], "z"} }), renew.Invalid, false},
		{"thousands of elements", say(func(c []string) []string {
			for range 1000 {
				c = append(c, c[1])
			}
			return c
		}), renew.Invalid, false},
		{"another key", say(func(c []string) []string { return []string{c[1], c[1]} }), renew.Invalid, false},
		{"another root", say(func(c []string) []string {
			other, err := localca.New("cluster.local")
			if err != nil {
				return nil
			}
			return []string{c[0], string(other.Root())}
		}), renew.Invalid, false},
		{"another identity", edit(func(c *x509.Certificate) { c.URIs[0].Path = "/ns/shop/sa/thief" }), renew.Identity, false},
		{"two identities", edit(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), renew.Identity, false},
		{"no identity", edit(func(c *x509.Certificate) { c.URIs = nil }), renew.Identity, false},
		{"expired", edit(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), renew.Invalid, false},
		{"not yet valid", edit(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(5 * time.Second) }), renew.Invalid, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newTestCA(t)
				ca.life = time.Hour
				r := newRig(t, Options{}, nil, ca)
				r.start(t)
				<-r.secrets.Secret("default").Ready()
				first := r.secrets.Secret("default").Status().Chain[0]
				ca.set(func() { tc.trouble(ca) })
				time.Sleep(50 * time.Minute) // renewal was due after 30
				synctest.Wait()
				now := r.source.Status().Snapshot()
				if now.Updates != 1 || now.Failures[tc.reason] < 10 || len(now.Failures) != 1 || now.LastError == nil {
					t.Errorf("%+v", now)
				}
				if r.log.Count("ERROR") != 1 || r.log.Count("ERROR", "reason="+string(tc.reason)) != 1 {
					t.Errorf("the log:\n%s", r.log.String())
				}
				calls, rounds := len(ca.asked())-1, int(now.Failures[tc.reason])
				// A round may be under way.
				if per := map[bool]int{true: 1 + retries, false: 1}[tc.heals]; calls < per*rounds || calls > per*(rounds+1) {
					t.Errorf("%d requests in %d rounds", calls, rounds)
				}
				// One may be under way.
				if n := r.source.Requests(); n.All != n.Failed+1 || int(n.Failed) < calls-1 || int(n.Failed) > calls || (tc.reason == renew.Slow) != (n.Took > 9*time.Second) {
					t.Errorf("%d calls, counted as %+v", calls, n)
				}
				st := r.secrets.Secret("default").Status()
				if !st.Chain[0].Equal(first) || st.LastError == "" {
					t.Errorf("%+v", st)
				}
				if err := renewtest.NewPair(t, r.secrets, ca.local).Shake(t.Context()); err != nil {
					t.Error(err)
				}
				ca.set(func() { ca.turn, ca.edit = nil, nil })
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				if now := r.source.Status().Snapshot(); now.Updates != 2 || now.LastError != nil || r.log.Count("renewed again") != 1 {
					t.Errorf("after the trouble: %+v\n%s", now, r.log.String())
				}
			})
		})
	}
}

// TestFirstTime: a proxy that starts before its CA asks again for ever, from
// half a second to a minute.
func TestFirstTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		r := newRig(t, Options{Dial: func(context.Context, string) (net.Conn, error) {
			dials.Add(1)
			return nil, errors.New("nobody is there")
		}}, nil, newTestCA(t))
		r.start(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		now := r.source.Status().Snapshot()
		if n := int(now.Failures[renew.Unavailable]); n < 60 || n > 140 || r.log.Count("ERROR") != 1 || !now.LastSuccess.IsZero() {
			t.Errorf("%+v\n%s", now, r.log.String())
		}
		if n := dials.Load(); n < 60*(retries+1) {
			t.Errorf("%d attempts", n)
		}
	})
}

// TestWhoIsTheCA: the CA has to prove that it is the one, by roots that are
// read at the time.
func TestWhoIsTheCA(t *testing.T) {
	for _, tc := range []struct {
		name, addr, serverName, certificate string
		good                                bool
	}{
		{"its host", "ca.example:15012", "", "ca.example", true},
		{"localhost is istiod", "localhost:15012", "", "istiod.istio-system.svc", true},
		{"a name of its own", "10.0.0.1:15012", "istiod.istio-system.svc", "istiod.istio-system.svc", true},
		{"another host", "ca.example:15012", "", "evil.example", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newTestCA(t)
				roots := file(t, string(ca.local.Root()))
				r := newRig(t, Options{Addr: tc.addr, ServerName: tc.serverName, RootFile: roots}, ca.serverCreds(tc.certificate), ca)
				r.start(t)
				time.Sleep(time.Minute)
				synctest.Wait()
				if now := r.source.Status().Snapshot(); tc.good != (now.Updates > 0) || tc.good != (now.LastError == nil) {
					t.Errorf("%+v", now)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t)
		other, err := localca.New("cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		roots := file(t, string(other.Root()))
		r := newRig(t, Options{Addr: "ca.example:15012", RootFile: roots}, ca.serverCreds("ca.example"), ca)
		r.start(t)
		time.Sleep(time.Minute)
		synctest.Wait()
		if now := r.source.Status().Snapshot(); now.Updates != 0 || r.log.Count("ERROR", "unknown authority") != 1 || len(ca.asked()) != 0 {
			t.Errorf("%+v\n%s", now, r.log.String())
		}
		if err := os.WriteFile(roots, ca.local.Root(), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if now := r.source.Status().Snapshot(); now.Updates == 0 {
			t.Errorf("the new roots weren't read: %+v", now)
		}
	})
}

// TestFilesOfOurs: what is wrong with our own files is told apart from the
// CA's troubles.
func TestFilesOfOurs(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		reason     renew.Reason
		o          func(t *testing.T) Options
	}{
		{"a token with a line in it", "holds no token", renew.Local, func(t *testing.T) Options { return Options{TokenFile: file(t, "a\nb")} }},
		{"a token that can't be read", "token:", renew.Local, func(t *testing.T) Options { return Options{TokenFile: t.TempDir()} }},
		{"no roots", "the roots of", renew.Local, func(*testing.T) Options { return Options{RootFile: "/nonexistent/root.pem"} }},
		{"roots without a certificate", "holds no certificate", renew.Local, func(t *testing.T) Options { return Options{RootFile: file(t, "x")} }},
		{"no token", `no token was sent: there is none in \"/nonexistent/token\"`, renew.Denied, func(*testing.T) Options { return Options{TokenFile: "/nonexistent/token"} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newTestCA(t)
				ca.turn = func(context.Context, []string) ([]string, error) {
					return nil, status.Error(codes.Unauthenticated, "who are you")
				}
				o := tc.o(t)
				creds := ca.serverCreds("istiod.istio-system.svc")
				if o.RootFile == "" {
					creds = nil
				}
				r := newRig(t, o, creds, ca)
				r.start(t)
				time.Sleep(time.Second / 4)
				synctest.Wait()
				now := r.source.Status().Snapshot()
				if now.Failures[tc.reason] != 1 || !strings.Contains(now.LastError.Error(), strings.ReplaceAll(tc.want, `\`, "")) {
					t.Errorf("%+v", now)
				}
			})
		})
	}
}

func TestOptions(t *testing.T) {
	r := newRig(t, Options{}, nil, newTestCA(t))
	good := Options{Addr: "ca:15010", ID: renewtest.Own, Certificate: r.source.o.Certificate, Roots: r.source.o.Roots}
	s, err := New(good)
	if err != nil || !s.o.Plaintext || s.o.ServerName != "ca" || s.o.TTL != 24*time.Hour {
		t.Fatalf("%+v: %v", s, err)
	}
	for name, spoil := range map[string]func(*Options){
		"HOST:PORT":      func(o *Options) { o.Addr = "ca" },
		"does not begin": func(o *Options) { o.ID = "web" },
		"no place":       func(o *Options) { o.Roots = nil },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRenewAt(t *testing.T) {
	r := newRig(t, Options{}, nil, newTestCA(t))
	now := time.Now()
	early, late := now.Add(24*time.Hour), now
	for range 200 {
		at := r.source.renewAt(now, now.Add(24*time.Hour))
		if at.Before(early) {
			early = at
		}
		if at.After(late) {
			late = at
		}
	}
	// 0.5 ± 0.01 of a day.
	const half, jitter = 12 * time.Hour, 864 * time.Second
	if early.Before(now.Add(half-jitter)) || late.After(now.Add(half+jitter)) || late.Sub(early) < jitter/4 {
		t.Errorf("%s to %s", early.Sub(now), late.Sub(now))
	}
	if at := r.source.renewAt(now, now); at.Sub(now) != shortest {
		t.Errorf("a certificate without life is renewed after %s", at.Sub(now))
	}
}

func FuzzAnswer(f *testing.F) {
	req, err := newRequest(P256, renewtest.Own, false)
	if err != nil {
		f.Fatal(err)
	}
	ca := newTestCA(f)
	chain := ca.sign(f, req)
	f.Add(chain[0], chain[1])
	f.Add(chain[0]+chain[1], chain[1]+chain[1])
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "")
	now := time.Now()
	f.Fuzz(func(t *testing.T, leaf, root string) {
		got, err := readAnswer([]string{leaf, root}, req.key, renewtest.Own, now)
		if err != nil {
			return
		}
		pair, err := stdtls.X509KeyPair(got.chain, got.key)
		if err != nil || pair.Leaf.URIs[0].String() != renewtest.Own || got.expires.Before(now) {
			t.Errorf("taken: %q", leaf)
		}
	})
}
