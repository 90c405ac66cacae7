// SPDX-License-Identifier: Apache-2.0

package http

import (
	"sync/atomic"
	"time"
)

// processStart is the zero of Now.
var processStart = time.Now()

// Now returns a monotonic time in nanoseconds. Take it once per event and
// pass it on: it is the only clock of the request path.
func Now() int64 { return int64(time.Since(processStart)) }

// WallTime converts a time of Now into wall-clock time.
func WallTime(ns int64) time.Time { return processStart.Add(time.Duration(ns)) }

// Exchange is one request with its response on one downstream stream,
// whatever the protocol of either side. It is owned by the goroutine that
// runs it, is reused, and must not be kept after the finish functions ran.
type Exchange struct {
	// Req is the request as received, with the edits of the connection
	// manager and the filters. The forwarder makes each attempt from it.
	Req RequestHead
	// Resp is the response that goes downstream.
	Resp ResponseHead
	// RespTrailers are the trailers of the response, nil when none came.
	RespTrailers *Fields

	// Conn describes the downstream connection. Immutable, shared.
	Conn *ConnInfo
	// ClientAddress is the client's IP address as text if the connection
	// manager took it from X-Forwarded-For, nil if it is that of the connection.
	ClientAddress []byte
	// DownstreamPeer is the workload that sent the request, nil when it is not
	// known. Immutable, shared between requests of one peer.
	DownstreamPeer *Peer

	// UpstreamPeer is the workload that answered, as it says of itself, nil when it
	// says nothing. Immutable, shared.
	UpstreamPeer *Peer
	// MeshOnly says that what the request tells of our workload
	// (x-envoy-peer-metadata) is not for hosts outside of the mesh.
	MeshOnly bool

	// TraceID and SpanID name the trace and our span of it; zero where the request
	// isn't traced (proxy/trace).
	TraceID [16]byte
	SpanID  [8]byte
	// Tries, if not nil, is told of each try at a host.
	Tries TryObserver

	// Metadata is what filters tell each other and the access log.
	Metadata Metadata

	// EarlyBody is what a filter.BodyReader had read of the request's body; nil
	// when there was none.
	EarlyBody *EarlyBody

	// Random is one random number for everything in the exchange that is left
	// to chance; who uses it mixes it first.
	Random uint64

	// Start is when the request's head was complete; RequestEnd when its last
	// byte had been read; UpstreamStart when the attempt that answered began;
	// UpstreamFirst when that response's head was complete; End when the last
	// byte had been written. Nanoseconds of Now; 0 = didn't happen.
	Start, RequestEnd, UpstreamStart, UpstreamFirst, End int64
	// Held says that a filter had the request wait after Start.
	Held bool

	// RequestHeadBytes and ResponseHeadBytes are the heads' sizes on the
	// wire; RequestBodyBytes and ResponseBodyBytes count body octets without
	// their transfer coding.
	RequestHeadBytes, ResponseHeadBytes int64
	RequestBodyBytes, ResponseBodyBytes int64

	// GRPC says that the request is one of gRPC, also if it came as gRPC-Web:
	// the connection manager sets it when the head is complete, the gRPC-Web
	// filter when it has translated a head.
	GRPC bool
	// GRPCWeb is what a gRPC-Web client speaks and wants to hear.
	GRPCWeb GRPCWeb
	// Wrapped says that a filter stands between the forwarder and the client:
	// all of both bodies has to go through it.
	Wrapped bool
	// RequestMessages and ResponseMessages count gRPC messages if the chain
	// has a filter that wants to know (envoy.filters.http.grpc_stats). Whoever
	// carries a body gives its pieces to Add.
	RequestMessages, ResponseMessages GRPCMessages

	// Route facts, set when the router has chosen.
	VirtualHost string
	RouteName   string
	// ClusterName is the cluster that the route leads to, whether the request
	// gets there or a filter answers it; empty for a route that answers itself.
	ClusterName string
	// Cluster is that cluster; nil where it isn't known.
	Cluster NamedCluster
	// Reroute is set by a request filter that has changed what routes are chosen
	// by: the route is chosen again before the next filter runs.
	Reroute bool

	// Upstream is the chosen host of the last attempt; nil when none was.
	Upstream *HostFacts
	// UpstreamTLS is what the handshake of the upstream connection settled; nil
	// when it is plain. Immutable, shared.
	UpstreamTLS *TLSInfo
	// UpstreamLocal is the local address of the upstream connection.
	UpstreamLocal string
	// UpstreamProtocol is what the upstream connection speaks.
	UpstreamProtocol Protocol
	// UpstreamFailure is the reason why the connection failed, in words;
	// DownstreamFailure that of TLS with the client.
	UpstreamFailure, DownstreamFailure string
	// Attempts counts tries, the first included; 0 when none was made.
	Attempts uint32

	Flags Flags
	// Details is %RESPONSE_CODE_DETAILS%.
	Details string
	// TerminationDetails is %CONNECTION_TERMINATION_DETAILS%.
	TerminationDetails string
	// Err is why the exchange failed, nil when the response is the upstream's.
	Err *Error

	// OriginalPath is the path before a rewrite, nil without one.
	OriginalPath []byte

	// LocalReply, when set by a filter that returns Reply, is what is sent.
	LocalReply LocalReply

	// Cancelled is closed when the downstream went away or the proxy gives
	// up on the exchange; nil when nothing can cancel it. A filter that
	// waits must watch it.
	Cancelled <-chan struct{}

	// states belong to filters; see SetState.
	states []exchangeState

	// scratch holds values that the proxy makes for this exchange.
	scratch []byte
}

// TryObserver is told of each try to have a host answer an exchange, by whoever owns
// the exchange.
type TryObserver interface {
	// TryBegins comes before the request's head is sent, which it may edit. A try that
	// begins twice was not made the first time.
	TryBegins(ex *Exchange)
	// TryEnds comes when the host has answered to the end, or the try has failed with
	// err. retried: there was an answer, and it is not passed on.
	TryEnds(ex *Exchange, err *Error, retried bool)
}

// LocalReply is an answer that the proxy makes itself.
type LocalReply struct {
	Status  int
	Body    string
	Headers []Field // added to the reply; aliases configuration
	Bare    bool    // the route's own changes of responses are left out
	Err     *Error
}

// GRPCWeb tells how a client speaks gRPC-Web. The zero value: it doesn't.
type GRPCWeb struct {
	On bool
	// TextRequest and TextResponse ask for base64 in that direction.
	TextRequest, TextResponse bool
}

// ClusterObserved is what the cluster is called where it is observed: its name in
// statistics, or else its own (Envoy: ClusterInfo::observabilityName).
func (x *Exchange) ClusterObserved() string {
	if x.Cluster != nil {
		return x.Cluster.StatName()
	}
	return x.ClusterName
}

// NamedCluster is a cluster for those who tell of it: few do, so that its name is asked
// for only then.
type NamedCluster interface {
	// StatName is what the cluster is called in statistics.
	StatName() string
}

// HostStatus returns the HTTP status by which the host that answered is
// judged: of gRPC that of its grpc-status, so that a host which fails in 200s
// counts as failing (Envoy: Router::Filter::onUpstreamHeaders). It is asked
// when the response's head is there, and if that doesn't tell (false) once
// more when the response has ended. Envoy takes a head without a grpc-status
// for a success and doesn't look at the trailers.
func (x *Exchange) HostStatus(ended bool) (status int, known bool) {
	if !x.GRPC {
		return x.Resp.Status, true
	}
	if code, ok := x.Resp.Fields.GRPCStatus(); ok {
		return code.HTTP(), true
	}
	if x.Resp.Status != 200 {
		return x.Resp.Status, true
	}
	if !ended {
		return 0, false
	}
	if x.RespTrailers != nil {
		if code, ok := x.RespTrailers.GRPCStatus(); ok {
			return code.HTTP(), true
		}
	}
	return x.Resp.Status, true
}

// Reset makes the exchange ready for another request and keeps its memory.
func (x *Exchange) Reset() {
	x.Req.Reset()
	x.Resp.Reset()
	x.Metadata.reset()
	clear(x.states)
	req, resp, scratch, metadata, states := x.Req, x.Resp, x.scratch[:0], x.Metadata, x.states[:0]
	*x = Exchange{Req: req, Resp: resp, scratch: scratch, Metadata: metadata, states: states}
}

// Scratch returns n bytes that live as long as the exchange. Earlier slices
// stay valid.
func (x *Exchange) Scratch(n int) []byte {
	if cap(x.scratch)-len(x.scratch) < n {
		size := 1024
		for size < n {
			size *= 2
		}
		x.scratch = make([]byte, 0, size)
	}
	o := len(x.scratch)
	x.scratch = x.scratch[:o+n]
	return x.scratch[o : o+n : o+n]
}

// KeepBytes copies b into the exchange's scratch space.
func (x *Exchange) KeepBytes(b []byte) []byte {
	s := x.Scratch(len(b))
	copy(s, b)
	return s
}

// Direction is the side of the workload that a listener serves.
type Direction uint8

// The directions, as envoy.config.core.v3.TrafficDirection.
const (
	DirectionUnspecified Direction = iota
	Inbound
	Outbound
)

// ConnInfo describes one downstream connection. It is immutable once the
// connection is served.
type ConnInfo struct {
	Local, Remote string // host:port as text, made once per connection
	Direction     Direction
	SNI           string
	PeerPrincipal string   // first URI SAN of the verified client certificate
	OwnPrincipal  string   // first URI SAN of our certificate on this connection
	OriginalDst   string   // host:port before redirection; empty when not redirected
	TLS           *TLSInfo // nil when the connection is not encrypted by us
	// Logged says that the listener's access log wants to know what becomes of the
	// connection; see Outcome.
	Logged  bool
	outcome *ConnOutcome // nil until there is something to tell; owned by the goroutine that serves the connection
}

// Destination is where the client connected to, host:port: of a redirected connection
// where it was going, which Envoy calls its local address, too
// (ConnectionInfoSetterImpl::restoreLocalAddress).
func (c *ConnInfo) Destination() string {
	if c.OriginalDst != "" {
		return c.OriginalDst
	}
	return c.Local
}

// Outcome returns where those who serve the connection write down what became of
// it, nil if nobody wants to know. It is for the goroutine that serves it.
func (c *ConnInfo) Outcome() *ConnOutcome {
	if c.Logged && c.outcome == nil {
		c.outcome = &ConnOutcome{}
	}
	return c.outcome
}

// ConnOutcome is what became of a downstream connection, for the access log of
// its listener.
type ConnOutcome struct {
	Flags Flags
	// Details is %RESPONSE_CODE_DETAILS%, TerminationDetails
	// %CONNECTION_TERMINATION_DETAILS%, TransportFailure
	// %DOWNSTREAM_TRANSPORT_FAILURE_REASON%.
	Details, TerminationDetails, TransportFailure string
	// Metadata is what the chain's filters found out.
	Metadata Metadata
	// Of a connection of raw bytes: where it went, why it didn't get there, and
	// what it carried.
	ClusterName     string
	Cluster         NamedCluster
	Upstream        *HostFacts
	UpstreamLocal   string
	UpstreamFailure string
	UpstreamTLS     *TLSInfo
	Received, Sent  int64
}

// TLSInfo is what a TLS handshake settled. It is immutable.
type TLSInfo struct {
	Version     string // "TLSv1.3"
	CipherSuite string // as OpenSSL names it, e.g. "TLS_AES_128_GCM_SHA256"
	ALPN        string // empty when none was agreed on
	Resumed     bool
	// Peer and Own are the leaf certificates; Peer is nil when the other side
	// showed none, Own when we did. PeerVerified: its chain, and every other
	// demand of the configuration, was checked. Policy may trust nothing of an
	// unverified one.
	Peer, Own    *Certificate
	PeerVerified bool
}

// Principals returns the first URI of each end's certificate: that of a peer which
// was verified, and ours. They are empty where there is none, or no TLS.
func (i *TLSInfo) Principals() (peer, own string) {
	if i == nil {
		return "", ""
	}
	if i.Peer != nil && i.PeerVerified && len(i.Peer.URIs) > 0 {
		peer = i.Peer.URIs[0]
	}
	if i.Own != nil && len(i.Own.URIs) > 0 {
		own = i.Own.URIs[0]
	}
	return peer, own
}

// Certificate is a leaf certificate in the words of logs, of policies and of
// x-forwarded-client-cert. It is immutable.
type Certificate struct {
	Subject, Issuer string // RFC 2253, the last part first, as Envoy has them
	Serial          string // hex, whole octets
	Digest          string // SHA-256 of the DER in lower-case hex
	URIs, DNS, IPs  []string
	Emails          []string
	NotBefore       time.Time
	NotAfter        time.Time
	Chain           [][]byte // DER, the leaf first; of the peer's, as it was sent
}

// Peer describes the workload at one end of a request in the words of
// Istio's metric labels. Empty fields are reported as "unknown".
type Peer struct {
	Workload, Namespace                 string
	CanonicalService, CanonicalRevision string
	App, Version, ClusterID, Principal  string
	ServiceHost, ServiceName, ServiceNS string // destination service, from cluster metadata
	// Detail is what metric labels don't have by themselves; nil when nothing is
	// known of it.
	Detail *PeerDetail
}

// HostFacts is what the layers above know of one upstream host: immutable
// facts, and slots where an observer caches what it resolved for this host
// (metric handles), so that a request does no look-up by labels.
type HostFacts struct {
	ClusterName string
	Address     string // ip:port as text
	Peer        Peer
	attached    atomic.Pointer[attachment]
}

type attachment struct {
	owner any
	value any
	next  *attachment
}

// Attached returns what owner attached to the host, or nil. Safe for
// concurrent use.
func (h *HostFacts) Attached(owner any) any {
	for a := h.attached.Load(); a != nil; a = a.next {
		if a.owner == owner {
			return a.value
		}
	}
	return nil
}

// Attach stores value for owner unless there is one already, and returns the
// one that stays. owner is compared by identity, so use a pointer.
func (h *HostFacts) Attach(owner, value any) any {
	for {
		head := h.attached.Load()
		for a := head; a != nil; a = a.next {
			if a.owner == owner {
				return a.value
			}
		}
		if h.attached.CompareAndSwap(head, &attachment{owner: owner, value: value, next: head}) {
			return value
		}
	}
}
