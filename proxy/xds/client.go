// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"pillion/proxy/stats"
	"pillion/proxy/tls/controlplane"
	"pillion/proxy/tls/renew"
)

const (
	// The waits of Envoy's gRPC streams (source/extensions/config_subscription/grpc).
	retryBase = 500 * time.Millisecond
	retryMax  = 30 * time.Second
	// shortest is how long a stream has to have lasted to be opened again at
	// once when it ends in order, so that a server that ends each stream isn't
	// asked without pause.
	shortest = time.Second
	// slowAfter is when a server that hasn't answered is called silent. It is
	// waited for all the same.
	slowAfter = 10 * time.Second
	// openTimeout is how long a server may let no stream be opened. Pings, which
	// tell a dead connection, begin with the stream.
	openTimeout = 30 * time.Second
	// The settings of Istio's agent. A message has no limit there; ours is far
	// above what a mesh makes, and keeps the memory of a mistake in bounds.
	keepAliveTime    = 30 * time.Second
	keepAliveTimeout = 10 * time.Second
	window           = 1 << 20
	maxMessage       = 1 << 30
)

// Options say where the server is, what is asked of it and who takes it.
type Options struct {
	// Server is where the server is, and how each knows the other.
	Server controlplane.Server
	// KeepAlive and KeepAliveTimeout are how long a silent connection is left
	// alone, and how long it has to prove that it lives; 0: 30 s and 10 s.
	KeepAlive, KeepAliveTimeout time.Duration
	// Node says who asks. It is called for each stream.
	Node func() *Node
	// Types are the type URLs that are asked for as a whole, in that order.
	Types []string
	// StateOfTheWorld speaks that protocol instead of delta. It needs Name,
	// which returns what a resource is called.
	StateOfTheWorld bool
	Name            func(typeURL string, body []byte) (string, error)
	// Sink takes what comes.
	Sink Sink
	// Logger is told of outages; nil: nobody is.
	Logger *slog.Logger
}

// Client asks one server. Run does the work.
type Client struct {
	o    Options       // immutable
	wake chan struct{} // holds one: there may be something to send

	keepAlive time.Duration // owned by Run

	mu    sync.Mutex
	types []*subscription          // in the order of asking; guarded by mu
	byURL map[string]*subscription // the same; guarded by mu
	turn  int                      // where of types the sender looks first; guarded by mu
	node  *Node                    // for the first request of the stream, then nil; guarded by mu
	line  line                     // guarded by mu
	count counters
}

// New checks the options.
func New(o Options) (*Client, error) {
	if err := o.Server.Check(); err != nil {
		return nil, fmt.Errorf("xDS: %w", err)
	}
	switch {
	case o.Node == nil || o.Sink == nil:
		return nil, errors.New("xDS: there is nobody to ask for or nobody to take what comes: Node or Sink is missing")
	case o.StateOfTheWorld && o.Name == nil:
		return nil, errors.New("xDS: the state of the world needs Name: its resources bring no names of their own")
	case len(o.Types) == 0:
		return nil, errors.New("xDS: there is no type to ask for")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("address", o.Server.Address)
	c := &Client{o: o, keepAlive: cmp.Or(o.KeepAlive, keepAliveTime), wake: make(chan struct{}, 1), byURL: map[string]*subscription{}, line: line{state: Connecting, since: time.Now()}}
	for _, url := range o.Types {
		if c.byURL[url] != nil {
			return nil, fmt.Errorf("xDS: the type %s is asked for twice", url)
		}
		c.subscription(url).wildcard = true
	}
	return c, nil
}

// subscription returns the one of a type, which is made if it isn't there; mu is
// held, or nobody else has the client yet.
func (c *Client) subscription(url string) *subscription {
	s := c.byURL[url]
	if s == nil {
		s = &subscription{url: url}
		c.byURL[url] = s
		c.types = append(c.types, s)
	}
	return s
}

// Want replaces the names that are asked for of a type (Subscriber). Types that
// are asked for as a whole stay so, whatever is wanted of them.
func (c *Client) Want(typeURL string, names []string) {
	want := make(set, len(names))
	for _, n := range names {
		if n == "" || n == "*" || !utf8.ValidString(n) {
			// The first two would ask for everything, the last can't be sent.
			c.o.Logger.Warn("a name that no resource can have isn't asked for", "type", typeURL, "name", n)
			continue
		}
		want[n] = struct{}{}
	}
	c.mu.Lock()
	if s := c.byURL[typeURL]; s == nil || !s.wildcard {
		c.subscription(typeURL).setWant(want)
	}
	c.mu.Unlock()
	c.poke()
}

// poke wakes the sender.
func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Run asks until ctx ends, on one stream after another. It is called once.
func (c *Client) Run(ctx context.Context) {
	wait := renew.Backoff{Base: retryBase, Max: retryMax}
	for ctx.Err() == nil {
		begun := time.Now()
		good, err := c.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if good {
			wait.Reset()
		}
		if good && inOrder(err) && time.Since(begun) >= shortest {
			c.ended(err)
			continue
		}
		if strings.Contains(err.Error(), "too_many_pings") {
			// The server wants to be left alone for longer (gRFC A8); gRPC itself
			// forgets that with the connection.
			c.keepAlive *= 2
		}
		c.failed(err)
		renew.Wait(ctx, wait.Next())
	}
	c.stopped()
}

// inOrder reports whether a stream ended as servers end them all, when a
// connection has come of age or the server shuts down. gRPC has no other sign
// of it than the text (pilot/pkg/grpc/grpc.go of Istio looks for the same).
func inOrder(err error) bool {
	return errors.Is(err, io.EOF) || strings.Contains(err.Error(), "received prior goaway: code: NO_ERROR") ||
		strings.Contains(err.Error(), "stream terminated by RST_STREAM with error code: NO_ERROR")
}

// session opens a stream and takes what comes on it until it breaks. It returns
// why it did, and whether the server had answered by then.
func (c *Client) session(ctx context.Context) (good bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, token, err := c.o.Server.Metadata(ctx)
	if err != nil {
		return false, renew.Because(renew.Local, err)
	}
	conn, err := c.o.Server.Connect(c.dialOptions()...)
	if err != nil {
		return false, renew.Because(renew.Local, err)
	}
	defer func() { _ = conn.Close() }()
	defer func() { err = c.explain(err, token) }()
	// A server may also take the connection and never open a stream, or open
	// one and say nothing.
	slow := time.AfterFunc(slowAfter, c.silent)
	defer slow.Stop()
	opening := time.AfterFunc(openTimeout, cancel)
	st, err := open(ctx, conn, c.o.StateOfTheWorld, c.o.Name)
	if !opening.Stop() {
		return false, renew.Because(renew.Slow, fmt.Errorf("no stream could be opened for %s", openTimeout))
	} else if err != nil {
		return false, err
	}
	c.begin()
	in, broken := make(chan *response), make(chan error, 2)
	var both sync.WaitGroup
	both.Go(func() { c.send(ctx, st, broken) })
	both.Go(func() { receive(ctx, st, in, broken) })
	defer both.Wait()
	defer cancel()
	for {
		select {
		case r := <-in:
			c.count.responses.Inc()
			if c.take(r) && !good {
				good = true
				slow.Stop()
				c.answered(r.server)
			}
		case err := <-broken:
			return good, err
		}
	}
}

// explain gives an error of gRPC the reason that its code doesn't tell, and says
// what to look at.
func (c *Client) explain(err error, token bool) error {
	srv := &c.o.Server
	switch text := err.Error(); {
	case errors.Is(err, io.EOF):
		return renew.Because(renew.Unavailable, fmt.Errorf("the server ended the stream: %w", err))
	case strings.Contains(text, "authentication handshake failed"):
		return renew.Because(renew.Identity, fmt.Errorf("%w (its certificate has to be for the name %q and lead to the roots in %q)", err, srv.Name(), srv.RootFile))
	case strings.Contains(text, "failed to unmarshal"):
		return renew.Because(renew.Invalid, err)
	case !token && srv.TokenFile != "" && renew.ReasonOf(err) == renew.Denied:
		return renew.Because(renew.Denied, fmt.Errorf("%w (no token was sent: there is none in %q)", err, srv.TokenFile))
	}
	return err
}

func (c *Client) dialOptions() []grpc.DialOption {
	alive := keepalive.ClientParameters{Time: c.keepAlive, Timeout: cmp.Or(c.o.KeepAliveTimeout, keepAliveTimeout)}
	return []grpc.DialOption{
		grpc.WithKeepaliveParams(alive), grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	}
}

// begin prepares the first requests of a new stream.
func (c *Client) begin() {
	node := c.o.Node()
	c.mu.Lock()
	types := slices.Clone(c.types)
	c.mu.Unlock()
	have := make(map[*subscription]map[string]string, len(types))
	if !c.o.StateOfTheWorld {
		for _, s := range types {
			have[s] = c.o.Sink.Have(s.url)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	owed := false
	for _, s := range c.types {
		s.reset(have[s])
		owed = owed || s.pending() && s.owed(c.o.StateOfTheWorld)
	}
	c.node, c.turn = node, 0
	c.line.enter(Silent)
	c.line.owed = owed
	c.count.streams.Inc()
}

// receive reads responses. While one is taken, the next is read and no more:
// the server is held back by the windows of HTTP/2.
func receive(ctx context.Context, st stream, in chan<- *response, broken chan<- error) {
	for {
		r, err := st.recv()
		if err != nil {
			broken <- err
			return
		}
		select {
		case in <- r:
		case <-ctx.Done():
			broken <- ctx.Err()
			return
		}
	}
}

// send writes requests as there is something to say. It has a goroutine of its
// own, so that a server that doesn't read holds up nobody who reads.
func (c *Client) send(ctx context.Context, st stream, broken chan<- error) {
	for {
		r, node, ok := c.next()
		if !ok {
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		c.o.Logger.Debug("xDS request", "type", r.typeURL, "nonce", r.nonce, "refusal", r.refusal,
			"subscribe", len(r.subscribe), "unsubscribe", len(r.unsubscribe), "initial", len(r.initial), "names", len(r.names))
		c.count.requests.Inc()
		if err := st.send(&r, node); err != nil {
			if !errors.Is(err, io.EOF) { // receive gets what EOF stands for
				broken <- err
			}
			return
		}
	}
}

// next returns what is to be sent next. Types take turns.
func (c *Client) next() (request, *Node, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.types {
		at := (c.turn + i) % len(c.types)
		r, ok := c.types[at].next(c.o.StateOfTheWorld)
		if !ok {
			continue
		}
		c.turn = at + 1
		node := c.node
		c.node = nil
		return r, node, true
	}
	return request{}, nil, false
}

// take gives a response to the Sink and has it answered. It reports false if
// the response is of a type that isn't asked for.
func (c *Client) take(r *response) bool {
	u := &r.update
	c.mu.Lock()
	s := c.byURL[u.TypeURL]
	if s == nil || !s.begun {
		c.mu.Unlock()
		c.count.unasked.Inc()
		c.o.Logger.Debug("a response of a type that wasn't asked for is ignored", "type", cut(u.TypeURL, 200), "nonce", cut(r.nonce, 200))
		return false
	}
	unwanted := s.admit(u)
	whole := s.wildcard
	c.mu.Unlock()
	s.resources.Add(uint64(len(u.Resources)))
	s.octets.Add(uint64(r.octets))
	c.count.unwanted.Add(uint64(unwanted))
	u.Full = c.o.StateOfTheWorld && whole && len(r.problems.texts) == 0
	var err error
	// A response of which nothing could be read isn't one that holds nothing.
	if len(u.Resources)+len(u.Removed) > 0 || len(r.problems.texts) == 0 {
		err = c.o.Sink.Apply(u)
	}
	reason := r.problems.reason(err)
	if err != nil && reason == "" {
		reason = "refused without a reason"
	}
	c.mu.Lock()
	known := reason == s.refused
	s.took(r.nonce, u.Version, reason)
	c.line.server = cut(r.server, 512)
	c.mu.Unlock()
	c.poke()
	if reason != "" && !known {
		c.o.Logger.Warn("an update was refused in part; of what was refused, the last that was taken is served on", "type", u.TypeURL, "version", u.Version, "reason", reason)
	}
	return true
}

// counters are what no type has its share of.
type counters struct {
	streams             stats.Counter // opened
	restarts            stats.Counter // streams that ended in order
	unasked             stats.Counter // responses of types that weren't asked for
	unwanted            stats.Counter // resources that weren't asked for, or not any more
	requests, responses stats.Counter
}
