// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net"

	"pillion/proxy/http"
)

// RawConn is a connection of a pool that carries one stream of bytes and is
// never reused.
type RawConn struct {
	NetConn net.Conn
	// TLS is what the handshake settled, nil on a plain connection. Immutable.
	TLS *http.TLSInfo

	pool    *Pool // immutable
	created int64 // http.Now; immutable
}

// ConnectRaw makes a connection, in one of MaxConnections. It doesn't wait for
// one: as with Envoy, a stream of bytes is refused when all are taken. It is
// to be given back by Close. cancel ends the attempt.
func (p *Pool) ConnectRaw(cancel <-chan struct{}) (*RawConn, *http.Error) {
	g := p.group
	s := g.settings.Load()
	if !g.reserve() && !g.evict() {
		g.stats.CxOverflow.Inc()
		return nil, errOverflow
	}
	p.countConnect(g)
	p.owner().Stats.RqActive.Inc()
	start := http.Now()
	nc, err := p.dial(s, nil, start, 0, cancel)
	if err != nil {
		p.owner().Stats.RqActive.Dec()
		p.countFailure(err)
		g.release()
		return nil, err
	}
	p.owner().Stats.RqTotal.Inc()
	now := http.Now()
	g.stats.connectTime.get().Record(now - start)
	return &RawConn{NetConn: nc, TLS: settled(nc), pool: p, created: now}, nil
}

// evict closes an idle connection of HTTP and leaves its place to the caller.
func (g *Group) evict() bool {
	g.mu.Lock()
	victim := g.takeVictim()
	g.mu.Unlock()
	if victim == nil {
		return false
	}
	victim.pool.close(victim, closedByUs)
	return true
}

// Close closes the connection and gives its place back. It must be called
// once. byHost says that it was the host that ended it.
func (c *RawConn) Close(byHost bool) {
	_ = c.NetConn.Close() // what an upstream says to a close helps nobody
	how := withRequest
	if byHost {
		how |= closedByHost
	}
	c.pool.owner().Stats.RqActive.Dec()
	c.pool.countClose(how, c.created, 1)
	c.pool.group.release()
}
