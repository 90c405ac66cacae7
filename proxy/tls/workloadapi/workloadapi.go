// SPDX-License-Identifier: Apache-2.0

// Package workloadapi gets the workload's certificate and the bundles of
// trust domains from a SPIFFE Workload API over a Unix socket.
package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	spiffe "github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"

	"pillion/proxy/tls"
	"pillion/proxy/tls/renew"
)

// Name is what the source is called in metrics and /certs.
const Name = "workload-api"

const (
	retryBase = 100 * time.Millisecond
	retryMax  = 30 * time.Second
	// slowAfter is when an API that hasn't answered is called slow. It is
	// waited for all the same.
	slowAfter = 10 * time.Second
	maxAnswer = 16 << 20
)

// Options say where the API is and which identity is wanted of it.
type Options struct {
	// Socket is the path of the API's socket.
	Socket string
	// ID is the SPIFFE ID that is wanted; empty: the first that the API gives,
	// its default.
	ID string
	// Certificate and Roots are the places to fill.
	Certificate, Roots *tls.Secret
	Logger             *slog.Logger
	// Dial reaches the API; nil: Socket.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Source is a tls.Source.
type Source struct {
	o      Options
	status *renew.Status
}

// New checks the options.
func New(o Options) (*Source, error) {
	if o.Socket == "" && o.Dial == nil {
		return nil, errors.New("the Workload API needs the path of a socket")
	}
	if o.ID != "" {
		if _, err := tls.ParseID(o.ID); err != nil {
			return nil, fmt.Errorf("the identity to ask for: %w", err)
		}
	}
	if o.Certificate == nil || o.Roots == nil {
		return nil, errors.New("there is no place for the certificate or for the roots")
	}
	if o.Dial == nil {
		path, err := filepath.Abs(o.Socket)
		if err != nil {
			return nil, err
		}
		o.Dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
		}
	}
	return &Source{o: o, status: renew.NewStatus(Name, o.Logger)}, nil
}

// Status tells how renewals fare.
func (s *Source) Status() *renew.Status { return s.status }

// Run keeps certificate and bundles renewed until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	backoff := &renew.Backoff{Base: retryBase, Max: retryMax}
	for ctx.Err() == nil {
		err := s.stream(ctx, backoff)
		if ctx.Err() != nil {
			return nil
		}
		s.fail(err)
		renew.Wait(ctx, backoff.Next())
	}
	return nil
}

// stream watches the API over a new connection until it breaks off.
func (s *Source) stream(ctx context.Context, backoff *renew.Backoff) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	client, err := spiffe.New(ctx, spiffe.WithAddr("unix:///workload-api"), spiffe.WithBackoffStrategy(once{}), spiffe.WithDialOptions(
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.o.Dial(ctx) }),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer))))
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	slow := time.AfterFunc(slowAfter, func() {
		s.fail(renew.Because(renew.Slow, fmt.Errorf("no answer for %s", slowAfter)))
	})
	defer slow.Stop()
	w := &watcher{s: s, backoff: backoff, slow: slow, end: cancel}
	if err = client.WatchX509Context(ctx, w); context.Cause(ctx) != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		return context.Cause(ctx)
	}
	return err
}

func (s *Source) fail(err error) {
	s.o.Certificate.Fail(Name, err)
	s.status.Failed("", err)
}

// once keeps the library from trying again by itself: it would do so without
// jitter, and would end for good on some errors.
type once struct{}

// NewBackoff is workloadapi.BackoffStrategy.
func (once) NewBackoff() spiffe.Backoff { return once{} }

// Next is workloadapi.Backoff. The watch is ended before this is over.
func (once) Next() time.Duration { return time.Hour }

// Reset is workloadapi.Backoff.
func (once) Reset() {}

// watcher takes what comes on one connection. Owned by the goroutine that
// watches.
type watcher struct {
	s       *Source
	backoff *renew.Backoff
	slow    *time.Timer
	end     context.CancelCauseFunc
}

// OnX509ContextUpdate is workloadapi.X509ContextWatcher.
func (w *watcher) OnX509ContextUpdate(x *spiffe.X509Context) {
	w.slow.Stop()
	if err := w.s.take(x); err != nil {
		w.s.fail(err)
		return
	}
	w.backoff.Reset()
	w.s.status.Succeeded("")
}

// OnX509ContextWatchError is workloadapi.X509ContextWatcher. It is told both
// of an answer that can't be read, after which the stream goes on, and of the
// end of the stream. After either one we begin anew.
func (w *watcher) OnX509ContextWatchError(err error) { w.end(err) }

// take puts an answer in the place of the old one.
func (s *Source) take(x *spiffe.X509Context) error {
	svid, err := choose(x.SVIDs, s.o.ID)
	if err != nil {
		return err
	}
	chain, key, err := svid.Marshal()
	if err != nil {
		return renew.Because(renew.Invalid, err)
	}
	// The trust domain of a peer says which bundle its certificate has to lead
	// to, ours and federated ones alike (SPIFFE federation, section 5.2).
	domains := map[string][]byte{}
	for _, b := range x.Bundles.Bundles() {
		if b.Empty() {
			continue // nobody of that domain is trusted any more
		}
		if domains[b.TrustDomain().Name()], err = b.Marshal(); err != nil {
			return renew.Because(renew.Invalid, err)
		}
	}
	if domains[svid.ID.TrustDomain().Name()] == nil {
		return renew.Because(renew.Invalid, fmt.Errorf("there is no bundle of %s, the trust domain of the certificate", svid.ID.TrustDomain()))
	}
	// The bundles go first: a peer's certificate of a new root may come at once.
	if err := s.o.Roots.SetAnchors(tls.Anchors{TrustDomains: domains}, Name); err != nil {
		return renew.Because(renew.Invalid, err)
	}
	return s.o.Certificate.SetKeyPair(tls.KeyPair{Chain: chain, Key: key}, svid.ID.String(), Name)
}

// choose returns the SVID of the wanted identity.
func choose(svids []*x509svid.SVID, want string) (*x509svid.SVID, error) {
	var got []string
	for _, v := range svids {
		if want == "" || v.ID.String() == want {
			return v, nil
		}
		got = append(got, v.ID.String())
	}
	return nil, &tls.IdentityError{Got: strings.Join(got, ", "), Want: want}
}
