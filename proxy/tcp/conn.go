// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"pillion/proxy/cluster"
	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/netio"
	"pillion/proxy/pool"
)

// cause is why a connection ended.
type cause uint8

const (
	running       cause = iota
	bothEnded           // each side sent its FIN
	clientReset         // the client broke it off
	upstreamReset       // the host did
	idleTooLong
	openTooLong
	drainOver
)

// conn is one downstream connection with that to its host. It belongs to the
// goroutine that serves it, but for what says otherwise.
type conn struct {
	p      *Proxy         // immutable
	info   *http.ConnInfo // immutable
	downNC net.Conn       // immutable
	start  int64          // http.Now; immutable
	cancel chan struct{}  // closed, with mu held, when connecting is given up

	down, up netio.Conn // each direction's goroutine reads one and writes the other
	// upward and downward are what comes before the data of either direction, nil for
	// nothing. Set before relay, immutable then.
	upward, downward *meeting
	raw              *pool.RawConn
	cl               *cluster.Cluster
	cluster          string
	host             *cluster.Host
	attempts         uint32
	failure          *http.Error
	// refusal and refusalCode are the details of a filter that didn't admit the
	// connection.
	refusal, refusalCode string
	metadata             http.Metadata // what the chain's filters found out, for the access log

	// received and sent count the bytes from and to downstream.
	received, sent     atomic.Uint64
	downEnded, upEnded atomic.Bool // that side has sent FIN
	opened             bool        // guarded by mu; filters were told
	counted, told      [2]uint64   // received and sent as last added to counters, told to filters; guarded by mu
	moved, tellAt      int64       // http.Now; when bytes last moved, when filters are told next; guarded by mu
	next, prev         *conn       // guarded by Tracker.mu

	mu sync.Mutex
	// downPeer and upPeer are who is at either end, as far as they said; unknown is how
	// many of them may still say it. Guarded by mu.
	downPeer, upPeer *http.Peer
	unknown          int
	cause            cause      // guarded by mu
	flags            http.Flags // guarded by mu
	connected        bool       // raw is set; guarded by mu
}

// admit asks the chain's filters whether the connection may be served.
func (c *conn) admit() bool {
	if len(c.p.cfg.Admit) == 0 {
		return true
	}
	a := filter.Admission{Conn: c.info, Cancelled: c.cancel}
	admitted := filter.Admit(c.p.cfg.Admit, &a)
	a.Report(admitted)
	if len(c.p.cfg.AccessLogs) > 0 {
		c.metadata = a.Metadata
	}
	if admitted {
		return true
	}
	c.refusal, c.refusalCode = a.Details, a.CodeDetails
	c.fail(a.Flags)
	return false
}

// connect gets a connection to a host. false: there is none.
func (c *conn) connect() bool {
	slot := c.p.choose()
	if slot != nil {
		c.cluster, c.cl = slot.Name(), slot.Load()
	}
	if c.cl == nil {
		c.p.cfg.Stats.NoRoute.Inc()
		c.fail(http.FlagNoCluster)
		return false
	}
	args := cluster.PickArgs{OriginalDst: c.info.OriginalDst}
	if c.p.cfg.HashSourceIP {
		args.Hash, args.HasHash = sourceHash(c.info.Remote)
	}
	for {
		host := c.cl.Pick(&args)
		if host == nil {
			c.fail(http.FlagNoHealthyUpstream)
			return false
		}
		c.host = host
		c.attempts++
		raw, err := c.cl.Connect(host, c.cancel)
		if err == nil {
			return c.adopt(raw)
		}
		c.failure = err
		c.fail(err.Flag)
		if err.Kind == http.KindOverflow || err.Kind == http.KindClientGone {
			return false
		}
		if int(c.attempts) >= c.p.cfg.MaxConnectAttempts {
			c.cl.Stats.CxConnectAttemptsExceeded.Inc()
			c.fail(http.FlagUpstreamRetryLimitExceeded)
			return false
		}
		args.Avoid = append(args.Avoid, host)
	}
}

// sourceHash is Envoy's hash of a client's address.
func sourceHash(remote string) (uint64, bool) {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return 0, false
	}
	return xxhash.Sum64String(a.Addr().Unmap().String()), true
}

func (c *conn) fail(f http.Flags) {
	c.mu.Lock()
	c.flags |= f
	c.mu.Unlock()
}

// adopt takes over the connection to the host, unless the downstream one was
// ended meanwhile.
func (c *conn) adopt(raw *pool.RawConn) bool {
	c.up.Init(raw.NetConn)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw, c.connected = raw, true
	c.failure, c.flags = nil, 0 // of earlier attempts
	if c.cause != running {
		return false
	}
	c.greetLocked()
	now := http.Now()
	c.moved = now // what was waited for wasn't idle (Envoy: Filter::onUpstreamConnection)
	c.tellLocked(now, false)
	return true
}

// relay carries both directions until each has ended.
func (c *conn) relay() {
	var back sync.WaitGroup
	back.Go(func() { c.carry(&c.down, &c.up, c.downward, &c.sent, &c.upEnded, upstreamReset, clientReset) })
	c.carry(&c.up, &c.down, c.upward, &c.received, &c.downEnded, clientReset, upstreamReset)
	back.Wait()
}

// carry carries one direction and passes on how it ends: a FIN as a FIN, while
// the other direction goes on, and a reset as a reset. A close_notify is passed on
// only where there was one: anybody on the way can end a connection, and one of ours
// would vouch for it.
func (c *conn) carry(dst, src *netio.Conn, m *meeting, moved *atomic.Uint64, ended *atomic.Bool, bySrc, byDst cause) {
	var srcErr, dstErr error
	if m != nil {
		srcErr, dstErr = c.meet(dst, src, m, moved)
	}
	switch {
	case srcErr == io.EOF:
		srcErr = nil
	case srcErr == nil && dstErr == nil:
		srcErr, dstErr = netio.Relay(dst, src, moved)
	}
	switch {
	case srcErr != nil:
		c.kill(bySrc)
	case dstErr != nil:
		c.kill(byDst)
	default:
		ended.Store(true)
		// One that is closed already needs neither.
		if src.Truncated() {
			_ = dst.CutWrite()
		} else {
			_ = dst.CloseWrite()
		}
	}
}

// kill ends both connections. It may be called by any goroutine at any time.
func (c *conn) kill(why cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != running {
		return
	}
	c.cause = why
	if !c.connected {
		close(c.cancel)
		return
	}
	reset := why == clientReset || why == upstreamReset
	closeConn(c.downNC, reset)
	closeConn(c.raw.NetConn, reset)
}

// closeConn closes a connection, as a reset if it is to be one.
func closeConn(nc net.Conn, reset bool) {
	if l, ok := nc.(interface{ SetLinger(sec int) error }); ok && reset {
		_ = l.SetLinger(0)
	}
	_ = nc.Close()
}

// finish closes what is open and tells everybody who wants to know.
func (c *conn) finish() {
	c.mu.Lock()
	if c.cause == running {
		c.cause = bothEnded
	}
	byHost := c.cause == upstreamReset || c.cause == bothEnded && c.upEnded.Load()
	c.countLocked()
	c.tellLocked(http.Now(), true)
	c.mu.Unlock()
	_ = c.downNC.Close()
	if c.raw != nil {
		c.raw.Close(byHost)
	}
	c.log()
}
