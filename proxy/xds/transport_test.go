// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"pillion/proxy/tls/controlplane"
)

const istiod = "istiod.istio-system.svc"

// authority is a CA with a certificate for one server.
type authority struct {
	root []byte // PEM
	leaf stdtls.Certificate
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	now := time.Now()
	make1 := func(tmpl, parent *x509.Certificate, by *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			by = key
		}
		tmpl.NotBefore, tmpl.NotAfter = now.Add(-time.Minute), now.Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, key := make1(root, root, nil)
	leaf, leafKey := make1(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}}, root, key)
	return authority{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), stdtls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: leafKey}}
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTLS: a server is spoken to only if its certificate is for the right name
// and leads to the roots in the file, as that is by then.
func TestTLS(t *testing.T) {
	for _, tc := range []struct {
		name, of, serverName string
		oldRoot              bool // the file has another CA's root at first
		most                 uint16
		want                 string // in the error; "" is none
	}{
		{"right", istiod, "", false, 0, ""},
		{"another name than the address", "other", "other", false, 0, ""},
		{"wrong name", "other", "", false, 0, "certificate is valid for other, not " + istiod},
		{"wrong root", istiod, "", true, 0, "signed by unknown authority"},
		{"TLS 1.1", istiod, "", false, stdtls.VersionTLS11, "protocol version"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, other := newAuthority(t, tc.of), newAuthority(t, tc.of)
				path := filepath.Join(t.TempDir(), "root-cert.pem")
				write(t, path, ca.root)
				if tc.oldRoot {
					write(t, path, other.root)
				}
				creds := credentials.NewTLS(&stdtls.Config{Certificates: []stdtls.Certificate{ca.leaf}, MinVersion: stdtls.VersionTLS10, MaxVersion: tc.most})
				r := newRig(t, false, &fakeServer{}, creds, func(_ *rig, o *Options) {
					o.Server.RootFile, o.Server.ServerName = path, tc.serverName
				})
				if tc.want != "" {
					time.Sleep(time.Minute)
					synctest.Wait()
					err := r.client.Status().Err
					if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
						t.Fatalf("%v, not %q", err, tc.want)
					}
					if n := r.metrics()["pillion.xds.stream_failures.identity"]; n < 2 {
						t.Errorf("metrics %v", r.metrics())
					}
					r.lines(1, 0, 1)
					if !tc.oldRoot {
						return
					}
					write(t, path, ca.root)
				}
				st := r.stream()
				if got := next(st.asks); got != "CDS node:me" {
					t.Errorf("%q", got)
				}
			})
		})
	}
}

// TestWhoAsks: each stream has the token as its file is then.
func TestWhoAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "token")
		nodes := 0
		r := newRig(t, false, &fakeServer{}, nil, func(_ *rig, o *Options) {
			o.Server.TokenFile, o.Server.ClusterID, o.Server.Headers = path, "lab", map[string]string{"X-Tenant": "blue"}
			o.Node = func() *Node { nodes++; return &Node{Id: fmt.Sprint("me", nodes)} }
		})
		for i, token := range []string{"", "one", "two", ""} {
			st := r.stream()
			if got := strings.Join(st.md.Get("authorization"), ","); got != strings.TrimSuffix("Bearer "+token, "Bearer ") {
				t.Errorf("stream %d: %q", i, got)
			}
			if st.md.Get("clusterid")[0] != "lab" || st.md.Get("x-tenant")[0] != "blue" {
				t.Errorf("stream %d: %v", i, st.md)
			}
			if got := next(st.asks); got != fmt.Sprintf("CDS node:me%d", i+1) {
				t.Errorf("stream %d: %q", i, got)
			}
			if i < 2 {
				write(t, path, []byte([]string{"one", "two\n"}[i]))
			} else if err := os.Remove(path); err != nil && i == 2 {
				t.Fatal(err)
			}
			st.end <- nil
		}
	})
}

// raw lets a handler send octets that are no message.
type raw struct{}

func (raw) Name() string                  { return "proto" }
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(b)
	return nil
}

// TestGarbage: octets that are no response end the stream, never the client.
func TestGarbage(t *testing.T) {
	for name, octets := range map[string][]byte{"no message": []byte("\xff\xff\xff"), "a string that isn't UTF-8": []byte("\x1a\x02\xff\xfe\x22\x02\xff\xfe")} {
		for _, world := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %t", name, world), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					calls := 0
					dial := newRaw(t, func(s grpc.ServerStream) error {
						calls++
						return s.SendMsg(&octets)
					})
					r := newRig(t, world, &fakeServer{}, nil, func(_ *rig, o *Options) { o.Server.Dial = dial })
					time.Sleep(time.Minute)
					synctest.Wait()
					if s := r.client.Status(); s.State != Connecting || s.Err == nil || calls < 4 {
						t.Errorf("%d calls, status %+v", calls, s)
					}
					if n := r.metrics()["pillion.xds.stream_failures.invalid"]; n != float64(calls) {
						t.Errorf("%d calls, metrics %v", calls, r.metrics())
					}
					r.lines(1, 0, 1)
				})
			})
		}
	}
}

// newRaw serves every call by h and returns how to reach it.
func newRaw(t *testing.T, h func(grpc.ServerStream) error) func(context.Context, string) (net.Conn, error) {
	t.Helper()
	g := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return h(s) }))
	ln := newListener()
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-served })
	return func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }
}

// TestHuge: ten megabytes in one response arrive as they were sent, in either protocol.
func TestHuge(t *testing.T) {
	for _, world := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, world, &fakeServer{}, nil, nil)
			st := r.stream()
			args := []string{"CDS", "n1", "v1"}
			for i := range 10_000 {
				args = append(args, fmt.Sprintf("cluster-%d=%s", i, strings.Repeat("x", 1024)))
			}
			if err := st.push(args...); err != nil {
				t.Fatal(err)
			}
			if got := r.update(world); strings.TrimSuffix(got, " full") != strings.Join(append([]string{"CDS", "v1"}, args[3:]...), " ") {
				t.Errorf("%d octets: %.200s…", len(got), got)
			}
			if next(st.asks) != "CDS node:me" || next(st.asks) != "LDS" || !strings.HasPrefix(next(st.asks), "CDS ") {
				t.Error("it isn't answered")
			}
			if n := r.metrics()["pillion.xds.octets.envoy.config.cluster.v3.Cluster"]; n < 10_000*1024 {
				t.Errorf("%v octets", n)
			}
		})
	}
}

// TestDeafServer: a server that sends and never reads gets no answers, but
// everything it sends is taken, and what waits for it doesn't grow.
func TestDeafServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, false, &fakeServer{deaf: true}, nil, func(r *rig, o *Options) {
			n := 0
			r.sink.apply = func(u *Update) error {
				n++
				var names []string
				for i := range 50 {
					names = append(names, fmt.Sprintf("%s-%d-%d", strings.Repeat("name", 50), n, i))
				}
				r.client.Want(short["EDS"], names)
				return errors.New(strings.Repeat("no", 5000))
			}
		})
		st := r.stream()
		for i := range 2000 {
			if err := st.push("CDS", fmt.Sprint("n", i), "v"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		s := r.client.Status()
		if c := s.Types[0]; c.Refusals != 2000 || len(c.Refused) != maxReason {
			t.Errorf("%d refusals, the last of %d octets, state %s", c.Refusals, len(c.Refused), s.State)
		}
		r.client.mu.Lock()
		defer r.client.mu.Unlock()
		if c, e := r.client.types[0], r.client.types[2]; len(c.answers) != maxAnswers || len(e.want)+len(e.asked)+len(e.forget) > 150 {
			t.Errorf("%d answers wait, %d, %d and %d names", len(c.answers), len(e.want), len(e.asked), len(e.forget))
		}
	})
}

// TestSlowSink: while the Sink is at work the server is held back.
func TestSlowSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold, calls := make(chan struct{}), atomic.Int32{}
		r := newRig(t, false, &fakeServer{}, nil, func(r *rig, o *Options) {
			r.sink.apply = func(*Update) error { calls.Add(1); <-hold; return nil }
		})
		st := r.stream()
		sent := atomic.Int32{}
		go func() {
			for i := range 200 {
				if st.push("CDS", fmt.Sprint("n", i), "v", "a="+strings.Repeat("x", 100<<10)) != nil {
					return
				}
				sent.Add(1)
			}
		}()
		synctest.Wait()
		// The windows hold a megabyte each, and one response is in hand.
		if n := sent.Load(); n < 2 || n > 40 || calls.Load() != 1 {
			t.Errorf("%d responses of 100 KiB are out, %d were taken", n, calls.Load())
		}
		close(hold)
		synctest.Wait()
		if calls.Load() != 200 {
			t.Errorf("%d were taken", calls.Load())
		}
	})
}

// TestSocket reaches a server where it really listens: at a port and at a path.
func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xds")
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": path} {
		ln, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		f := &fakeServer{streams: make(chan *fakeStream, 4)}
		g := grpc.NewServer()
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, f)
		served := make(chan struct{})
		go func() { defer close(served); _ = g.Serve(ln) }()
		server := controlplane.Server{Address: ln.Addr().String(), Plaintext: true}
		if network == "unix" {
			server.Address = "unix:" + path
		}
		c, err := New(Options{Server: server, Node: func() *Node { return &Node{Id: "me"} }, Types: []string{short["CDS"]}, Sink: &fakeSink{}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		st := <-f.streams
		if got := <-st.asks; got != "CDS node:me" {
			t.Errorf("%s: %q", network, got)
		}
		cancel()
		<-done
		g.Stop()
		<-served
	}
}

func TestNew(t *testing.T) {
	good := Options{Server: controlplane.Server{Address: "istiod:15012"}, Node: func() *Node { return nil }, Types: []string{short["CDS"]}, Sink: &fakeSink{}}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Options){
		"neither HOST:PORT nor unix:PATH": func(o *Options) { o.Server.Address = "istiod" },
		"Node or Sink is missing":         func(o *Options) { o.Node = nil },
		"or Sink is missing":              func(o *Options) { o.Sink = nil },
		"needs Name":                      func(o *Options) { o.StateOfTheWorld = true },
		"no type to ask for":              func(o *Options) { o.Types = nil },
		"asked for twice":                 func(o *Options) { o.Types = []string{"a", "a"} },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
	}
}
