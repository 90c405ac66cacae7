// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"pillion/proxy/http"
	"pillion/proxy/pool"
)

// SpeaksHTTP2 reports whether a request of a client that speaks client goes to
// the hosts over HTTP/2.
func (c *Cluster) SpeaksHTTP2(client http.Protocol) bool {
	switch c.config.Load().Conn.Speaks {
	case pool.SpeaksHTTP2:
		return true
	case pool.SpeaksClients:
		return client == http.HTTP2
	}
	return false
}

// TryStream returns an HTTP/2 connection to h that has room for a request to
// authority, nil if there is none. It doesn't wait. It is to be given back by PutStream.
func (c *Cluster) TryStream(h *Host, authority []byte) *pool.StreamConn {
	return h.pool.For(authority).TryStream()
}

// AcquireStream is TryStream with the wait: until deadline (http.Now, 0 for no
// bound) or until cancel is closed.
func (c *Cluster) AcquireStream(h *Host, authority []byte, deadline int64, cancel <-chan struct{}) (*pool.StreamConn, *http.Error) {
	return h.pool.For(authority).AcquireStream(deadline, cancel)
}

// PutStream gives a connection back after its request.
func (c *Cluster) PutStream(sc *pool.StreamConn) { sc.Pool().PutStream(sc) }
