// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"net"
	"net/netip"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/tls"
)

// dial makes a connection to the target, its TLS included, within the connect
// timeout, the request's deadline and its cancellation. alpn is what TLS offers,
// nil for what its context says.
func (p *Pool) dial(s *Settings, alpn []string, now, deadline int64, cancel <-chan struct{}) (net.Conn, *http.Error) {
	limit, late := now+int64(s.ConnectTimeout), false
	if deadline != 0 && deadline < limit {
		limit, late = deadline, true
	}
	ctx, stop := context.WithTimeout(cancelContext{context.Background(), cancel}, time.Duration(limit-now))
	defer stop()
	nc, err := p.dialTarget(ctx, s)
	if secure := p.owner().tls.Load(); err == nil && secure != nil {
		nc, err = p.handshake(ctx, s, secure, nc, alpn)
	}
	if err == nil {
		return nc, nil
	}
	select {
	case <-cancel:
		return nil, errCancelled
	default:
	}
	e := connectError(err)
	if ctx.Err() != nil {
		// A resolver may have put its own words on the expiry.
		e = errConnectTimeout
	}
	if e == errConnectTimeout && late {
		e = errLate
	}
	return nil, e
}

// settled returns what the handshake of a connection settled, nil if it is plain.
func settled(nc net.Conn) *http.TLSInfo {
	if c, ok := nc.(*tls.Conn); ok {
		return c.Info()
	}
	return nil
}

// handshake secures a connection, and closes it if that fails.
func (p *Pool) handshake(ctx context.Context, s *Settings, c *tls.Client, nc net.Conn, alpn []string) (net.Conn, error) {
	o, err := p.offer(s, alpn)
	var sealed *tls.Conn
	if err == nil {
		sealed, err = c.Handshake(ctx, nc, o)
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return sealed, nil
}

func (p *Pool) dialTarget(ctx context.Context, s *Settings) (net.Conn, error) {
	if p.target.Resolve == nil {
		return p.group.dial(ctx, p.target.Address, &s.Socket)
	}
	addrs, err := p.target.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, &ResolveError{Reason: "no address for " + p.target.Address}
	}
	return dialFirst(ctx, addrs, func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
		return p.group.dial(ctx, a.String(), &s.Socket)
	})
}

// attemptDelay is when the next address is tried although the last attempt
// is still running (RFC 8305 section 5).
const attemptDelay = 250 * time.Millisecond

// dialFirst connects to the addresses in their order and returns the first
// connection that is made, as Happy Eyeballs does. The error is that of the
// first address that failed.
func dialFirst(ctx context.Context, addrs []netip.AddrPort,
	dial func(context.Context, netip.AddrPort) (net.Conn, error)) (net.Conn, error) {
	if len(addrs) == 1 {
		return dial(ctx, addrs[0])
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	type result struct {
		nc  net.Conn
		err error
	}
	results := make(chan result)
	running := 0
	start := func(a netip.AddrPort) {
		running++
		go func() {
			nc, err := dial(ctx, a)
			select {
			case results <- result{nc, err}:
			case <-ctx.Done(): // another one won, or nobody waits any more
				if nc != nil {
					_ = nc.Close()
				}
			}
		}()
	}
	start(addrs[0])
	addrs = addrs[1:]
	timer := time.NewTimer(attemptDelay)
	defer timer.Stop()
	var first error
	for running > 0 {
		next := timer.C
		if len(addrs) == 0 {
			next = nil
		}
		select {
		case r := <-results:
			running--
			if r.err == nil {
				return r.nc, nil
			}
			if first == nil {
				first = r.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-next:
		}
		if len(addrs) > 0 {
			start(addrs[0])
			addrs = addrs[1:]
			timer.Reset(attemptDelay)
		}
	}
	return nil, first
}

// cancelContext is a context that ends when a channel is closed.
type cancelContext struct {
	context.Context // for Deadline and Value
	done            <-chan struct{}
}

func (c cancelContext) Done() <-chan struct{} { return c.done }

func (c cancelContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// Dial is the DialFunc for TCP and Unix sockets.
func Dial(ctx context.Context, address string, s *Socket) (net.Conn, error) {
	network := "tcp"
	d := net.Dialer{
		// Go turns keep-alive probes on by itself; Envoy doesn't.
		KeepAlive: -1,
		// Addresses are numeric, so there are no two families to race.
		FallbackDelay: -1,
	}
	if address != "" && (address[0] == '/' || address[0] == '@') {
		network = "unix"
		return d.DialContext(ctx, network, address)
	}
	if s.Keepalive {
		d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: orKernel(s.KeepaliveTime),
			Interval: orKernel(s.KeepaliveInterval), Count: s.KeepaliveProbes}
		if d.KeepAliveConfig.Count == 0 {
			d.KeepAliveConfig.Count = -1
		}
	}
	if from := s.bind(address); from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
		d.Control = lateBind
	}
	return d.DialContext(ctx, network, address)
}

// orKernel makes Go leave a value of the kernel alone when it is not set.
func orKernel(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}
