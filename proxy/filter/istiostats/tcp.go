// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"slices"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// tcpCells are the metrics of the raw connections between two workloads.
type tcpCells struct{ opened, closed, sent, received stats.Counter }

func emitTCP(c *tcpCells, s stats.SeriesScope) {
	s.Counter("istio_tcp_connections_opened_total", "Connections that were opened.", c.opened.Value())
	s.Counter("istio_tcp_connections_closed_total", "Connections that were closed.", c.closed.Value())
	s.Counter("istio_tcp_sent_bytes_total", "Bytes sent to clients.", c.sent.Value())
	s.Counter("istio_tcp_received_bytes_total", "Bytes received from clients.", c.received.Value())
}

// tcpLabelNames are the labels without those that only a response has.
func tcpLabelNames() []string {
	return slices.DeleteFunc(labelNames(), func(name string) bool {
		return name == "response_code" || name == "grpc_response_status"
	})
}

// tcpOwner gives reporters one more place beside a host.
type tcpOwner struct{ _ byte }

// tcpHandles caches the series of connections.
type tcpHandles = handles[*stats.Series[tcpCells]]

// OnConnection counts what became of a raw connection. It implements
// filter.ConnectionFilter.
func (f *Filter) OnConnection(c *filter.Connection) {
	cells := &f.reporter.findTCP(c).Cells
	if c.Opened {
		cells.opened.Inc()
	}
	if c.Closed {
		cells.closed.Inc()
	}
	cells.sent.Add(c.Sent)
	cells.received.Add(c.Received)
}

func (r *reporter) findTCP(c *filter.Connection) *stats.Series[tcpCells] {
	k := key{bits: uint64(c.Flags) << flagsShift}
	r.setPeerOf(&k, c.Conn, c.Peer, c.TLS)
	if c.Host == nil {
		return r.families.tcp.With(r.tcpValues(c, &k)...)
	}
	h, ok := c.Host.Attached(&r.tcp).(*tcpHandles)
	if !ok {
		h = c.Host.Attach(&r.tcp, &tcpHandles{}).(*tcpHandles)
	}
	if s := h.find(&k); s != nil {
		return s
	}
	s := r.families.tcp.With(r.tcpValues(c, &k)...)
	h.put(k, s)
	return s
}

func (r *reporter) tcpValues(c *filter.Connection, k *key) []string {
	return append(r.endValues(c.Cluster, c.Host, k), "tcp", k.flags().String(), r.security(k))
}

// setPeerOf makes a key that of the other end: of the client for a server, of the host,
// to which we have a connection with that TLS, for a client.
func (r *reporter) setPeerOf(k *key, conn *http.ConnInfo, peer *http.Peer, upstream *http.TLSInfo) {
	if !r.inbound {
		k.principal, k.own = upstream.Principals()
		return
	}
	k.peer = peer
	if conn != nil {
		k.principal, k.own = conn.PeerPrincipal, conn.OwnPrincipal
	}
}
