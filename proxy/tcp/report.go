// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"cmp"
	"sync"
	"time"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// DefaultTellEvery is how often filters hear of a connection that goes on (Istio:
// tcp_reporting_duration).
const DefaultTellEvery = 5 * time.Second

// countLocked adds what has moved to the counters, and reports whether
// anything has; mu is held.
func (c *conn) countLocked() bool {
	now := [2]uint64{c.received.Load(), c.sent.Load()}
	received, sent := now[0]-c.counted[0], now[1]-c.counted[1]
	c.counted = now
	if received+sent == 0 {
		return false
	}
	st := c.p.cfg.Stats
	st.RxBytes.Add(received)
	st.TxBytes.Add(sent)
	if c.cl != nil {
		c.cl.Stats.CxTxBytes.Add(received)
		c.cl.Stats.CxRxBytes.Add(sent)
	}
	return true
}

// tellLocked tells the filters what has changed; mu is held. As long as an end may
// still say who it is they are told nothing, so that all of a connection counts for
// the same workloads.
func (c *conn) tellLocked(now int64, closed bool) {
	c.tellAt = now + int64(cmp.Or(c.p.cfg.TellEvery, DefaultTellEvery))
	if c.unknown > 0 && !closed {
		return
	}
	moved := [2]uint64{c.received.Load(), c.sent.Load()}
	e := filter.Connection{
		Conn: c.info, Peer: c.downPeer, UpstreamPeer: c.upPeer, Cluster: c.cluster, Flags: c.flags,
		Opened: !c.opened, Closed: closed,
		Received: moved[0] - c.told[0], Sent: moved[1] - c.told[1],
	}
	if c.host != nil {
		e.Host = c.host.Facts
	}
	if c.raw != nil {
		e.TLS = c.raw.TLS
	}
	c.opened, c.told = true, moved
	if !e.Opened && !e.Closed && e.Received+e.Sent == 0 {
		return
	}
	for _, f := range c.p.cfg.Filters {
		f.OnConnection(&e)
	}
}

// exchanges are used to write access logs, whose formats read one.
var exchanges = sync.Pool{New: func() any { return new(http.Exchange) }}

// outcome tells the listener's access log what became of the connection.
func (c *conn) outcome() {
	o := c.info.Outcome()
	if o == nil {
		return
	}
	o.Flags |= c.flags
	o.ClusterName, o.Cluster, o.Received, o.Sent = c.cluster, c.named(), int64(c.received.Load()), int64(c.sent.Load())
	if c.host != nil {
		o.Upstream = c.host.Facts
	}
	if c.raw != nil {
		o.UpstreamLocal, o.UpstreamTLS = c.raw.NetConn.LocalAddr().String(), c.raw.TLS
	}
	if c.failure != nil {
		o.UpstreamFailure = c.failure.Transport
	}
}

// named is the chosen cluster, nil without one.
func (c *conn) named() http.NamedCluster {
	if c.cl == nil {
		return nil
	}
	return c.cl
}

// log writes the access log.
func (c *conn) log() {
	c.outcome()
	if len(c.p.cfg.AccessLogs) == 0 {
		return
	}
	ex := exchanges.Get().(*http.Exchange)
	ex.Conn, ex.ClusterName, ex.Cluster, ex.Flags, ex.Attempts = c.info, c.cluster, c.named(), c.flags, c.attempts
	ex.DownstreamPeer, ex.UpstreamPeer = c.downPeer, c.upPeer
	ex.Start, ex.End = c.start, http.Now()
	ex.RequestBodyBytes, ex.ResponseBodyBytes = int64(c.received.Load()), int64(c.sent.Load())
	ex.TerminationDetails, ex.Details, ex.Metadata = c.refusal, c.refusalCode, c.metadata
	if c.host != nil {
		ex.Upstream = c.host.Facts
	}
	if c.raw != nil {
		ex.UpstreamLocal, ex.UpstreamTLS = c.raw.NetConn.LocalAddr().String(), c.raw.TLS
	}
	if c.failure != nil {
		ex.UpstreamFailure = c.failure.Transport
	}
	for _, l := range c.p.cfg.AccessLogs {
		l.Log(ex)
	}
	ex.Reset()
	exchanges.Put(ex)
}
