// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"slices"
	"sync/atomic"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// tcpCells are the metrics of the raw connections between two workloads.
type tcpCells struct {
	used                           atomic.Uint32 // as in cells
	opened, closed, sent, received stats.Counter
}

func emitTCP(c *tcpCells, s stats.SeriesScope) {
	used := c.used.Load()
	if used&1 != 0 {
		s.Counter("istio_tcp_connections_opened_total", "Connections that were opened.", c.opened.Value())
	}
	if used&2 != 0 {
		s.Counter("istio_tcp_connections_closed_total", "Connections that were closed.", c.closed.Value())
	}
	if used&4 != 0 {
		s.Counter("istio_tcp_sent_bytes_total", "Bytes sent to clients.", c.sent.Value())
	}
	if used&8 != 0 {
		s.Counter("istio_tcp_received_bytes_total", "Bytes received from clients.", c.received.Value())
	}
}

// tcpLabelNames are the labels without those that only a response has.
func tcpLabelNames() []string {
	return slices.DeleteFunc(labelNames(), func(name string) bool {
		return name == "response_code" || name == "grpc_response_status"
	})
}

// OnConnection counts what became of a raw connection. It implements
// filter.ConnectionFilter.
func (f *Filter) OnConnection(c *filter.Connection) {
	r := f.reporter
	k := key{bits: uint64(c.Flags) << flagsShift}
	r.setPeerOf(&k, c.Conn, c.Peer, c.UpstreamPeer, c.TLS)
	for _, p := range r.raw {
		cells := &r.findTCP(p, c, &k).Cells
		if c.Opened && p.mask&1 != 0 {
			cells.opened.Inc()
		}
		if c.Closed && p.mask&2 != 0 {
			cells.closed.Inc()
		}
		if p.mask&4 != 0 {
			cells.sent.Add(c.Sent)
		}
		if p.mask&8 != 0 {
			cells.received.Add(c.Received)
		}
	}
}

func (r *reporter) findTCP(p *plan[tcpCells], c *filter.Connection, k *key) *stats.Series[tcpCells] {
	p.vary(k, nil, c)
	var h *handles[*stats.Series[tcpCells]]
	if c.Host != nil {
		h = p.cached(c.Cluster, c.Host)
		if s := h.find(k); s != nil {
			return s
		}
	}
	own := append(r.endValues(c.Cluster, c.Host, k), "tcp", k.flags().String(), r.security(k))
	s := p.family.With(p.values(own, nil, c)...)
	s.Cells.used.Or(p.mask)
	if h != nil {
		h.put(*k, s)
	}
	return s
}

// setPeerOf makes a key that of the other end: of the client for a server, of the host,
// to which we have a connection with that TLS, for a client.
func (r *reporter) setPeerOf(k *key, conn *http.ConnInfo, client, host *http.Peer, upstream *http.TLSInfo) {
	if !r.inbound {
		k.peer = host.Alike()
		k.principal, k.own = upstream.Principals()
		return
	}
	k.peer = client.Alike()
	if conn != nil {
		k.principal, k.own = conn.PeerPrincipal, conn.OwnPrincipal
	}
}
