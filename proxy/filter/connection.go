// SPDX-License-Identifier: Apache-2.0

package filter

import "pillion/proxy/http"

// Connection is what became of a connection of raw bytes since it was last
// told of.
type Connection struct {
	Conn *http.ConnInfo
	Peer *http.Peer // of the client, nil when it is not known
	// UpstreamPeer is the workload of the host, as it says of itself; nil when it
	// says nothing.
	UpstreamPeer *http.Peer
	Cluster      string
	Host         *http.HostFacts // nil when none was reached
	TLS          *http.TLSInfo   // of the connection to the host; nil when it is plain
	Flags        http.Flags
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

// Admission is the question whether a connection may be served, and what the
// chain's filters have found out about it. It is asked once, when all that is
// known of a connection beforehand is there (the handshake of TLS included)
// and before a byte of it is read.
type Admission struct {
	Conn *http.ConnInfo
	// Metadata is what the filters of the chain tell each other.
	Metadata http.Metadata
	// Cancelled is closed when nobody wants to know any more; nil if that
	// can't be. An Admitter that waits must watch it.
	Cancelled <-chan struct{}
	// Details is %CONNECTION_TERMINATION_DETAILS% of a refusal.
	Details string
	// CodeDetails is %RESPONSE_CODE_DETAILS% of one.
	CodeDetails string
	// Flags are response flags that a refusal sets.
	Flags http.Flags
}

// Report notes what became of the question, for the access log of the listener.
func (a *Admission) Report(admitted bool) {
	o := a.Conn.Outcome()
	if o == nil {
		return
	}
	o.Metadata = a.Metadata
	if !admitted {
		o.Flags, o.Details, o.TerminationDetails = o.Flags|a.Flags, a.CodeDetails, a.Details
	}
}

// Admitter is a network filter that may refuse a connection, which is closed
// then. Admit may block: the connection has a goroutine of its own.
type Admitter interface {
	Admit(a *Admission) bool
}

// Admit asks the filters one after the other, until one refuses.
func Admit(filters []Admitter, a *Admission) bool {
	for _, f := range filters {
		if !f.Admit(a) {
			return false
		}
	}
	return true
}
