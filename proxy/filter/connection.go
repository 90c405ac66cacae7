// SPDX-License-Identifier: Apache-2.0

package filter

import "pillion/proxy/http"

// Connection is what became of a connection of raw bytes since it was last
// told of.
type Connection struct {
	Conn    *http.ConnInfo
	Peer    *http.Peer // of the client, nil when it is not known
	Cluster string
	Host    *http.HostFacts // nil when none was reached
	Flags   http.Flags
	// Opened and Closed are each set once.
	Opened, Closed bool
	// Received are the bytes from downstream, Sent those towards it.
	Received, Sent uint64
}

// ConnectionFilter is told of raw connections: when one has got its host or
// failed to, from time to time, and at the end.
type ConnectionFilter interface {
	OnConnection(c *Connection)
}
