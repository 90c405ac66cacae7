// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"net"
	"sync"

	"pillion/proxy/http"
)

// Connections writes the access log of a listener: a line for each connection when
// it has ended, whether a filter chain served it or none would. Immutable.
type Connections struct {
	Logs []*Logger
	// Next serves the connections.
	Next interface {
		Serve(nc net.Conn, info *http.ConnInfo) http.Rest
	}
}

// Serve has a connection served and logs it. It takes ownership of nc.
func (c *Connections) Serve(nc net.Conn, info *http.ConnInfo) http.Rest {
	start := http.Now()
	info.Logged = true
	serve := http.Rest(func() http.Rest { return c.Next.Serve(nc, info) })
	return serve.Then(func() { c.log(info, start) })()
}

// exchanges are what formats read.
var exchanges = sync.Pool{New: func() any { return new(http.Exchange) }}

func (c *Connections) log(info *http.ConnInfo, start int64) {
	ex, o := exchanges.Get().(*http.Exchange), info.Outcome()
	ex.Conn, ex.Start, ex.End = info, start, http.Now()
	ex.Flags, ex.Details, ex.TerminationDetails, ex.DownstreamFailure = o.Flags, o.Details, o.TerminationDetails, o.TransportFailure
	ex.Metadata = o.Metadata
	ex.ClusterName, ex.Cluster, ex.Upstream, ex.UpstreamLocal, ex.UpstreamFailure, ex.UpstreamTLS = o.ClusterName, o.Cluster, o.Upstream, o.UpstreamLocal, o.UpstreamFailure, o.UpstreamTLS
	ex.RequestBodyBytes, ex.ResponseBodyBytes = o.Received, o.Sent
	for _, l := range c.Logs {
		l.Log(ex)
	}
	ex.Reset()
	exchanges.Put(ex)
}
