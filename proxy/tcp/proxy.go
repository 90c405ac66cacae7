// SPDX-License-Identifier: Apache-2.0

// Package tcp serves downstream connections whose bytes mean nothing to the
// proxy: it chooses a host, connects to it and carries both directions until
// each has ended.
package tcp

import (
	"math/bits"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"pillion/proxy/accesslog"
	"pillion/proxy/cluster"
	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// DefaultIdleTimeout is how long a connection on which nothing moves is kept
// (Envoy: TcpProxy.idle_timeout).
const DefaultIdleTimeout = time.Hour

// Config is what a filter chain that ends in a TCP proxy does. Immutable.
type Config struct {
	StatPrefix string
	// Targets are the clusters to choose from; at least one has a weight.
	Targets []Target
	// IdleTimeout ends a connection on which nothing moved; 0 doesn't. It is
	// looked at once a second.
	IdleTimeout time.Duration
	// MaxDuration ends a connection that has been open for so long; 0 doesn't.
	MaxDuration time.Duration
	// MaxConnectAttempts bounds the hosts that are tried for a connection.
	MaxConnectAttempts int
	// HashSourceIP makes the client's address choose the host in clusters that
	// balance by hash.
	HashSourceIP bool
	AccessLogs   []*accesslog.Logger
	// Admit are asked for each connection before it is served.
	Admit   []filter.Admitter
	Filters []filter.ConnectionFilter
	// TellEvery is how often filters hear of a connection that goes on;
	// DefaultTellEvery if 0.
	TellEvery time.Duration
	// Peers is how both ends tell each other who they are, nil if they don't: with
	// the client if PeerProtocol is what ALPN agreed on, with the host if that of its
	// cluster is. PeerLabels are further labels to tell the client.
	Peers        http.PeerExchange
	PeerProtocol string
	PeerLabels   []string
	Stats        *Stats
}

// Target is a cluster with its share of the connections.
type Target struct {
	Cluster *cluster.Slot
	Weight  uint32
}

// Stats are the counters of one stat_prefix, under Envoy's names.
type Stats struct {
	CxTotal, NoRoute         stats.Counter
	IdleTimeout, MaxDuration stats.Counter
	RxBytes, TxBytes         stats.Counter // from and to downstream
	CxActive                 stats.Gauge
}

// Collect reports tcp.<prefix>.*.
func (s *Stats) Collect(e *stats.Emitter, prefix string) {
	t := e.TCP(prefix)
	t.Counter("downstream_cx_total", s.CxTotal.Value())
	t.Counter("downstream_cx_no_route", s.NoRoute.Value())
	t.Counter("downstream_cx_rx_bytes_total", s.RxBytes.Value())
	t.Counter("downstream_cx_tx_bytes_total", s.TxBytes.Value())
	t.Counter("idle_timeout", s.IdleTimeout.Value())
	t.Counter("max_downstream_connection_duration", s.MaxDuration.Value())
	t.Gauge("downstream_cx_active", s.CxActive.Value())
}

// Proxy serves the connections of one filter chain. It implements
// listener.Handler.
type Proxy struct {
	cfg     *Config  // immutable
	tracker *Tracker // immutable
	total   uint64   // of the targets' weights; immutable
	turn    atomic.Uint64
	// retired is when it was, of http.Now; 0: it wasn't. Shared with what came before it.
	retired *atomic.Int64
}

// Next returns a proxy that serves new connections as cfg says. Those that are open go
// on as they were begun; a Retire of either ends all of them.
func (p *Proxy) Next(cfg *Config) *Proxy {
	next := New(cfg, p.tracker)
	next.retired = p.retired
	return next
}

// Retire gives the open connections Tracker.DrainTime to end by themselves. They
// would not be let in any more, or otherwise than they were.
func (p *Proxy) Retire() { p.retired.CompareAndSwap(0, max(http.Now(), 1)) }

// New returns a proxy whose connections t looks after.
func New(cfg *Config, t *Tracker) *Proxy {
	p := &Proxy{cfg: cfg, tracker: t, retired: new(atomic.Int64)}
	for i := range cfg.Targets {
		p.total += uint64(cfg.Targets[i].Weight)
	}
	// Not all proxies of a mesh should begin with the same cluster.
	p.turn.Store(rand.Uint64())
	return p
}

// golden is 2^64 divided by the golden ratio: its multiples fill the range
// evenly, so that weights are kept to after few connections already.
const golden = 0x9e3779b97f4a7c15

// choose returns the cluster for the next connection, nil if there is none.
func (p *Proxy) choose() *cluster.Slot {
	list := p.cfg.Targets
	if len(list) == 1 {
		return list[0].Cluster
	}
	at, _ := bits.Mul64(p.turn.Add(1)*golden, p.total)
	for i := range list {
		w := uint64(list[i].Weight)
		if at < w {
			return list[i].Cluster
		}
		at -= w
	}
	return nil
}

// Serve serves one connection until it is closed. It takes ownership of nc.
func (p *Proxy) Serve(nc net.Conn, info *http.ConnInfo) http.Rest {
	c := &conn{p: p, info: info, downNC: nc, start: http.Now(), cancel: make(chan struct{})}
	c.moved = c.start
	c.down.Init(nc)
	st := p.cfg.Stats
	st.CxTotal.Inc()
	st.CxActive.Inc()
	p.tracker.add(c)
	defer func() {
		c.finish()
		st.CxActive.Dec()
		p.tracker.remove(c)
	}()
	if c.admit() && c.connect() {
		c.relay()
	}
	return nil
}
