// SPDX-License-Identifier: Apache-2.0

package http

// PeerDetail is what is known of a workload beside what its metrics are labelled
// with. It is immutable.
type PeerDetail struct {
	// Name is that of the pod, Owner the path of what owns it
	// (kubernetes://apis/apps/v1/namespaces/shop/deployments/web).
	Name, Owner string
	// Identity is the SPIFFE ID that the workload says it has; the one that it
	// proved is that of its certificate.
	Identity     string
	Region, Zone string
	Labels       map[string]string
	// Workload is the same peer without Detail, one for all pods that are alike, so
	// that metrics have one label set for them. nil if there is none.
	Workload *Peer
}

// Alike returns what p has in common with the other pods of its workload: the same
// pointer for each of them. nil for nil.
func (p *Peer) Alike() *Peer {
	if p == nil || p.Detail == nil || p.Detail.Workload == nil {
		return p
	}
	return p.Detail.Workload
}

// PeerExchange is how both ends of a raw connection tell each other who they are:
// each sends one frame before its first byte of data, and neither waits for the
// other's. Safe for concurrent use.
type PeerExchange interface {
	// Begin reports whether the protocol that TLS agreed on is the one that asks for
	// the exchange, and returns the frame to send, which is read-only and may be
	// empty. labels are further labels to tell.
	Begin(protocol, agreed string, labels []string) (frame []byte, ok bool)
	// Read looks at what has come from the other end so far. principal is what its
	// certificate says that it is.
	Read(b []byte, principal string) PeerRead
	// Failed tells that the connection broke before the frame had come.
	Failed()
}

// PeerRead is what a look at a connection's first bytes finds.
type PeerRead struct {
	// More says that too few have come to tell.
	More bool
	// Skip is how many of them are the frame's; 0 if there is no frame and all of
	// them are data.
	Skip int
	// Peer is nil when the frame isn't there or says nothing that is understood.
	Peer *Peer
	// Broken says that the connection can't be served: where its data begin isn't
	// known.
	Broken bool
}
