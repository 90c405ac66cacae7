// SPDX-License-Identifier: Apache-2.0

package sds_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/config"
	"pillion/proxy/tls"
	"pillion/proxy/tls/localca"
	"pillion/proxy/tls/renew"
	"pillion/proxy/tls/renew/renewtest"
	"pillion/proxy/tls/sds"
)

// stream is one stream as the server sees it.
type stream struct {
	name   string
	first  *discoveryv3.DiscoveryRequest
	asked  chan *discoveryv3.DiscoveryRequest // after the first
	answer chan *discoveryv3.DiscoveryResponse
	end    chan error
}

// server hands its streams to the test.
type server struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	streams chan *stream
}

func (s *server) StreamSecrets(g grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	first, err := g.Recv()
	if err != nil {
		return err
	}
	st := &stream{name: first.ResourceNames[0], first: first, asked: make(chan *discoveryv3.DiscoveryRequest, 16), answer: make(chan *discoveryv3.DiscoveryResponse), end: make(chan error)}
	go func() {
		for {
			r, err := g.Recv()
			if err != nil {
				return
			}
			select {
			case st.asked <- r:
			case <-g.Context().Done():
				return
			}
		}
	}()
	select {
	case s.streams <- st:
	case <-g.Context().Done():
		return nil
	}
	for {
		select {
		case a := <-st.answer:
			if err := g.Send(a); err != nil {
				return err
			}
		case err := <-st.end:
			return err
		case <-g.Context().Done():
			return nil
		}
	}
}

// rig is a server and a source that runs.
type rig struct {
	*server
	socket  string
	log     renewtest.Log
	secrets *tls.Secrets
	source  *sds.Source
}

func newRig(t *testing.T, names ...string) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "sds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{server: &server{streams: make(chan *stream, 16)}, socket: filepath.Join(dir, "socket"), secrets: tls.NewSecrets()}
	o := sds.Options{Socket: r.socket, Node: &corev3.Node{Id: "sidecar~10.0.0.1~web.shop~shop.svc.cluster.local"}, Logger: r.log.Logger(),
		Apply: func(s *tlsv3.Secret) error {
			want := ""
			if s.GetName() == "default" {
				want = renewtest.Own
			}
			return config.ApplySecret(r.secrets, s, want, sds.Name)
		}}
	for _, n := range names {
		o.Secrets = append(o.Secrets, r.secrets.Secret(n))
	}
	if r.source, err = sds.New(o); err != nil {
		t.Fatal(err)
	}
	r.serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *rig) serve(t *testing.T) *grpc.Server {
	t.Helper()
	ln, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	secretv3.RegisterSecretDiscoveryServiceServer(g, r.server)
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	return g
}

func resource(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func certificate(l localca.Leaf) *tlsv3.Secret {
	return &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(l.Chain), PrivateKey: inline(l.Key)}}}
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func roots(pem []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: "ROOTCA", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(pem)}}}
}

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// say sends an answer and returns what the source says to it.
func (st *stream) say(n int, resources ...*anypb.Any) *discoveryv3.DiscoveryRequest {
	v := strconv.Itoa(n)
	st.answer <- &discoveryv3.DiscoveryResponse{VersionInfo: "v" + v, Nonce: "n" + v, TypeUrl: secretType, Resources: resources}
	return <-st.asked
}

func TestAcceptedAndRefused(t *testing.T) {
	ca := renewtest.NewCA(t)
	r := newRig(t, "default")
	st := <-r.streams
	if st.first.GetNode().GetId() == "" || st.first.VersionInfo != "" || st.first.ResponseNonce != "" || st.first.TypeUrl != secretType || st.name != "default" {
		t.Fatalf("first request: %v", st.first)
	}
	good := renewtest.Issue(t, ca, "web")
	got := st.say(1, resource(t, certificate(good)))
	if got.VersionInfo != "v1" || got.ResponseNonce != "n1" || got.ErrorDetail != nil || got.Node != nil || strings.Join(got.ResourceNames, ",") != "default" {
		t.Fatalf("ACK: %v", got)
	}
	<-r.secrets.Secret("default").Ready()
	other := certificate(good)
	other.Name = "else"
	for i, tc := range []struct {
		name      string
		resources []*anypb.Any
		want      string
		reason    renew.Reason
	}{
		{"another identity", []*anypb.Any{resource(t, certificate(renewtest.Issue(t, ca, "thief")))}, "sa/thief", renew.Identity},
		{"a key that isn't its", []*anypb.Any{resource(t, certificate(localca.Leaf{Chain: good.Chain, Key: renewtest.Issue(t, ca, "web").Key}))}, "private key", renew.Invalid},
		{"no PEM", []*anypb.Any{resource(t, certificate(localca.Leaf{Chain: []byte("x"), Key: []byte("y")}))}, "PEM", renew.Invalid},
		{"nothing", nil, "0 secrets", renew.Invalid},
		{"two", []*anypb.Any{resource(t, other), resource(t, certificate(good))}, "2 secrets", renew.Invalid},
		{"another name", []*anypb.Any{resource(t, other)}, `"else", not "default"`, renew.Invalid},
		{"another type", []*anypb.Any{resource(t, &corev3.Node{})}, "of type", renew.Invalid},
		{"octets", []*anypb.Any{{TypeUrl: secretType, Value: []byte{0xff}}}, "can't be read", renew.Invalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := r.source.Status().Snapshot().Failures[tc.reason]
			got := st.say(10+i, tc.resources...)
			if got.VersionInfo != "v1" || got.ResponseNonce != "n"+strconv.Itoa(10+i) || !strings.Contains(got.ErrorDetail.GetMessage(), tc.want) {
				t.Errorf("NACK: %v", got)
			}
			if n := r.source.Status().Snapshot().Failures[tc.reason]; n != before+1 {
				t.Errorf("failures for %s: %d, then %d", tc.reason, before, n)
			}
		})
	}
	if st := r.secrets.Secret("default").Status(); st.Updates != 1 || st.LastError == "" || st.Chain[0].URIs[0].String() != renewtest.Own {
		t.Errorf("what is served: %+v", st)
	}
	if r.log.Count("ERROR", "reason=identity") != 1 || r.log.Count("ERROR", "reason=invalid") != 1 || r.log.Count("ERROR") != 2 {
		t.Errorf("the log:\n%s", r.log.String())
	}
	// An answer in the wrapper of Envoy's resources, and the end of the trouble.
	got = st.say(99, resource(t, &discoveryv3.Resource{Name: "default", Resource: resource(t, certificate(renewtest.Issue(t, ca, "web")))}))
	if got.VersionInfo != "v99" || got.ErrorDetail != nil || r.log.Count("renewed again") != 1 {
		t.Errorf("ACK: %v\n%s", got, r.log.String())
	}
}

// TestSPIFFEValidator takes anchors in the form that SPIRE gives them.
func TestSPIFFEValidator(t *testing.T) {
	ca := renewtest.NewCA(t)
	r := newRig(t, "default", "ROOTCA")
	for range 2 {
		st := <-r.streams
		var s *tlsv3.Secret
		if st.name == "default" {
			s = certificate(renewtest.Issue(t, ca, "web"))
		} else {
			v := resource(t, &tlsv3.SPIFFECertValidatorConfig{TrustDomains: []*tlsv3.SPIFFECertValidatorConfig_TrustDomain{{Name: renewtest.TrustDomain, TrustBundle: inline(ca.Root())}}})
			s = roots(nil)
			s.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: "envoy.tls.cert_validator.spiffe", TypedConfig: v}}}
		}
		if got := st.say(1, resource(t, s)); got.ErrorDetail != nil {
			t.Fatal(got)
		}
	}
	if err := renewtest.NewPair(t, r.secrets, ca).Shake(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRotation changes the certificate under handshakes, through a server
// that goes away and comes back.
func TestRotation(t *testing.T) {
	ca := renewtest.NewCA(t)
	r := newRig(t, "default", "ROOTCA")
	streams := map[string]*stream{}
	collect := func() {
		for range 2 {
			st := <-r.streams
			streams[st.name] = st
		}
	}
	collect()
	var load *renewtest.Load // once there is a certificate
	n := 0
	rotate := func() {
		n++
		if load != nil {
			load.Next()
		}
		for name, s := range map[string]*tlsv3.Secret{"ROOTCA": roots(ca.Root()), "default": certificate(renewtest.Issue(t, ca, "web"))} {
			if got := streams[name].say(n, resource(t, s)); got.ErrorDetail != nil {
				t.Fatal(got)
			}
		}
	}
	rotate()
	load = renewtest.NewPair(t, r.secrets, ca).StartLoad(t.Context())
	for range 100 {
		rotate()
	}
	for _, st := range streams {
		st.end <- errors.New("restarted")
	}
	collect()
	for range 100 {
		rotate()
	}
	shakes, err := load.End()
	if err != nil || shakes == 0 {
		t.Fatalf("after %d handshakes: %v", shakes, err)
	}
	if st := r.secrets.Secret("default").Status(); st.Updates != uint64(n) {
		t.Errorf("%d certificates were taken, of %d", st.Updates, n)
	}
	t.Logf("%d certificates, %d handshakes in each direction", n, shakes)
}

// TestDown waits longer and longer for a server that isn't there, and says so once.
func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log renewtest.Log
		var dials atomic.Int64
		secrets := tls.NewSecrets()
		s, err := sds.New(sds.Options{Node: &corev3.Node{Id: "n"}, Secrets: []*tls.Secret{secrets.Secret("default")}, Logger: log.Logger(),
			Apply: func(*tlsv3.Secret) error { return nil },
			Dial: func(context.Context) (net.Conn, error) {
				dials.Add(1)
				return nil, errors.New("nobody is there")
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		cancel()
		<-done
		// 0.5, 1, 2, 4, 8, 16 and then 30 s, each less up to a half.
		if n := dials.Load(); n < 20 || n > 60 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		if now := s.Status().Snapshot(); now.Failures[renew.Unavailable] != uint64(dials.Load()) || !now.LastSuccess.IsZero() || log.Count("reason=unavailable", "nobody is there") != 1 {
			t.Errorf("%+v\n%s", now, log.String())
		}
	})
}

// TestSlow calls a server slow that takes the request and doesn't answer, and
// still takes what it says in the end.
func TestSlow(t *testing.T) {
	ca := renewtest.NewCA(t)
	synctest.Test(t, func(t *testing.T) {
		ln := bufconn.Listen(1 << 16)
		srv := &server{streams: make(chan *stream, 1)}
		g := grpc.NewServer()
		secretv3.RegisterSecretDiscoveryServiceServer(g, srv)
		served := make(chan struct{})
		go func() { defer close(served); _ = g.Serve(ln) }()
		var log renewtest.Log
		secrets := tls.NewSecrets()
		s, err := sds.New(sds.Options{Node: &corev3.Node{Id: "n"}, Secrets: []*tls.Secret{secrets.Secret("ROOTCA")}, Logger: log.Logger(), Dial: ln.DialContext,
			Apply: func(r *tlsv3.Secret) error { return config.ApplySecret(secrets, r, "", sds.Name) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		st := <-srv.streams
		time.Sleep(time.Hour)
		if now := s.Status().Snapshot(); now.Failures[renew.Slow] != 1 || log.Count("ERROR") != 1 || log.Count("reason=slow") != 1 {
			t.Errorf("%+v\n%s", now, log.String())
		}
		if got := st.say(1, resource(t, roots(ca.Root()))); got.ErrorDetail != nil {
			t.Error(got)
		}
		synctest.Wait()
		if now := s.Status().Snapshot(); now.Updates != 1 || now.LastError != nil || secrets.Secret("ROOTCA").Status().LastError != "" {
			t.Errorf("%+v", now)
		}
		cancel()
		<-done
		g.Stop()
		<-served
	})
}

// TestAnswers tells a socket with a server from one without.
func TestAnswers(t *testing.T) {
	r := newRig(t, "default")
	if !sds.Answers(t.Context(), r.socket) {
		t.Error("the server isn't seen")
	}
	if sds.Answers(t.Context(), r.socket+"-not") {
		t.Error("a server is seen that isn't there")
	}
}
