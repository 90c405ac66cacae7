// SPDX-License-Identifier: Apache-2.0

// Package sds gets secrets from a server of Envoy's secret discovery service
// (envoy.service.secret.v3.SecretDiscoveryService) over a Unix socket: SPIRE's
// agent, Istio's, or one of a user's own.
package sds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/tls"
	"pillion/proxy/tls/renew"
)

// Name is what the source is called in metrics and /certs.
const Name = "sds"

const (
	secretType  = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	wrapperType = "type.googleapis.com/envoy.service.discovery.v3.Resource"
	maxAnswer   = 16 << 20
	maxReason   = 1024 // octets of a NACK's message
	// The waits of Envoy's gRPC streams (source/extensions/config_subscription/grpc).
	retryBase = 500 * time.Millisecond
	retryMax  = 30 * time.Second
	// slowAfter is when a server that hasn't answered is called slow. It is
	// waited for all the same.
	slowAfter = 10 * time.Second
)

// Options say where the server is and what is asked of it.
type Options struct {
	// Socket is the path of the server's socket.
	Socket string
	// Node goes with the first request of each stream; SPIRE and Istio want an id.
	Node *corev3.Node
	// Secrets are the names to ask for, each filled into its place.
	Secrets []*tls.Secret
	// Apply checks a resource and puts it into its place, or says what is wrong
	// with it.
	Apply  func(r *tlsv3.Secret) error
	Logger *slog.Logger
	// Dial reaches the server; nil: Socket.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Source is a tls.Source. Like Envoy, it asks for each secret on a stream of
// its own, so that each answer is about one secret and is accepted or refused
// by itself.
type Source struct {
	o      Options
	status *renew.Status
}

// New checks the options.
func New(o Options) (*Source, error) {
	if o.Socket == "" && o.Dial == nil {
		return nil, errors.New("SDS needs the path of a socket")
	}
	if len(o.Secrets) == 0 || o.Apply == nil {
		return nil, errors.New("SDS has nothing to ask for")
	}
	if o.Node.GetId() == "" {
		return nil, errors.New("SDS needs a node id")
	}
	if o.Dial == nil {
		path := o.Socket
		o.Dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
		}
	}
	return &Source{o: o, status: renew.NewStatus(Name, o.Logger)}, nil
}

// Status tells how renewals fare.
func (s *Source) Status() *renew.Status { return s.status }

// Run keeps the secrets renewed until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, secret := range s.o.Secrets {
		all.Go(func() {
			w := &watch{s: s, secret: secret}
			w.run(ctx)
		})
	}
	all.Wait()
	return nil
}

// watch keeps one secret. Owned by its goroutine.
type watch struct {
	s       *Source
	secret  *tls.Secret
	backoff renew.Backoff
	version string // of the last answer that was taken
}

// run opens streams, one after another.
func (w *watch) run(ctx context.Context) {
	w.backoff = renew.Backoff{Base: retryBase, Max: retryMax}
	for ctx.Err() == nil {
		err := w.stream(ctx)
		if ctx.Err() != nil {
			return
		}
		w.fail("", err)
		renew.Wait(ctx, w.backoff.Next())
	}
}

// fail records a failure of the secret, or, for "", of the server. Any
// goroutine may call it.
func (w *watch) fail(secret string, err error) {
	err = fmt.Errorf("secret %s: %w", w.secret.Name(), err)
	w.secret.Fail(Name, err)
	w.s.status.Failed(secret, err)
}

// stream asks on a new stream and takes answers until it breaks.
func (w *watch) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///sds", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return w.s.o.Dial(ctx) }),
		grpc.WithAuthority("localhost"), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	st, err := secretv3.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx)
	if err != nil {
		return err
	}
	// A new stream begins afresh: without a version the server answers at
	// once, and an answer that holds nothing new changes nothing.
	w.version = ""
	if err := st.Send(w.request("", nil)); err != nil {
		return brokenOff(st, err)
	}
	slow := time.AfterFunc(slowAfter, func() {
		w.fail(w.secret.Name(), renew.Because(renew.Slow, fmt.Errorf("no answer for %s", slowAfter)))
	})
	defer slow.Stop()
	for {
		resp, err := st.Recv()
		if err != nil {
			return err
		}
		slow.Stop()
		refused := w.take(resp)
		if refused == nil {
			w.backoff.Reset()
			w.version = resp.GetVersionInfo()
		}
		if err := st.Send(w.request(resp.GetNonce(), refused)); err != nil {
			return brokenOff(st, err)
		}
	}
}

// brokenOff returns why a stream can't be written to: Send says EOF only, the
// status comes by Recv.
func brokenOff(st grpc.ClientStream, err error) error {
	if rerr := st.RecvMsg(&discoveryv3.DiscoveryResponse{}); rerr != nil {
		return rerr
	}
	return err
}

// request is the first request of a stream (no nonce), or the answer to an
// answer: an ACK names its version, a NACK the last version that was taken.
func (w *watch) request(nonce string, refused error) *discoveryv3.DiscoveryRequest {
	r := &discoveryv3.DiscoveryRequest{
		VersionInfo: w.version, ResponseNonce: nonce, TypeUrl: secretType, ResourceNames: []string{w.secret.Name()},
	}
	if nonce == "" {
		r.Node = w.s.o.Node
	}
	if refused != nil {
		text := refused.Error()
		r.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: text[:min(len(text), maxReason)]}
	}
	return r
}

// take puts an answer into the secret's place, or says why it isn't taken.
func (w *watch) take(resp *discoveryv3.DiscoveryResponse) error {
	secret, err := only(resp, w.secret.Name())
	if err != nil {
		err = renew.Because(renew.Invalid, err)
		w.fail(w.secret.Name(), err)
		return err
	}
	if err := w.s.o.Apply(secret); err != nil {
		w.s.status.Failed(w.secret.Name(), err) // Apply has told the secret
		return err
	}
	w.s.status.Succeeded(w.secret.Name())
	return nil
}

// only returns the one secret that an answer has to hold. The rules are
// Envoy's (source/common/secret/sds_api.cc, onConfigUpdate).
func only(resp *discoveryv3.DiscoveryResponse, name string) (*tlsv3.Secret, error) {
	if resp.GetTypeUrl() != secretType {
		return nil, fmt.Errorf("the answer is of type %.200q, not %q", resp.GetTypeUrl(), secretType)
	}
	if n := len(resp.GetResources()); n != 1 {
		return nil, fmt.Errorf("the answer holds %d secrets, one was asked for", n)
	}
	res := resp.GetResources()[0]
	if res.GetTypeUrl() == wrapperType {
		var wrapped discoveryv3.Resource
		if err := proto.Unmarshal(res.GetValue(), &wrapped); err != nil {
			return nil, fmt.Errorf("the resource can't be read: %w", err)
		}
		res = wrapped.GetResource()
	}
	if res.GetTypeUrl() != secretType {
		return nil, fmt.Errorf("the resource is of type %.200q, not %q", res.GetTypeUrl(), secretType)
	}
	secret := &tlsv3.Secret{}
	if err := proto.Unmarshal(res.GetValue(), secret); err != nil {
		return nil, fmt.Errorf("the secret can't be read: %w", err)
	}
	if secret.GetName() != name {
		return nil, fmt.Errorf("the answer is the secret %.200q, not %q", secret.GetName(), name)
	}
	return secret, nil
}

// Answers reports whether a gRPC server listens at a socket.
func Answers(ctx context.Context, socket string) bool {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig())
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	conn.Connect()
	for {
		switch state := conn.GetState(); state {
		case connectivity.Ready:
			return true
		case connectivity.TransientFailure, connectivity.Shutdown:
			return false
		default:
			if !conn.WaitForStateChange(ctx, state) {
				return false
			}
		}
	}
}
