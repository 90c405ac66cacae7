// SPDX-License-Identifier: Apache-2.0

package peermeta

import (
	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// Stats count what was read and what could not be. The zero value is ready; safe for
// concurrent use.
type Stats struct {
	// Unreadable counts fields of requests and responses that make no sense.
	Unreadable stats.Counter
	// Those of raw connections, as Istio's filter names them: whether the protocol
	// was agreed on, no frame at the beginning, a frame that isn't whole or makes no
	// sense, frames sent.
	Agreed, NotAgreed, NoFrame, BadFrame, Sent stats.Counter
}

// CollectStats reports the counters.
func (s *Stats) CollectStats(e *stats.Emitter) {
	e.Emit(stats.Metric{Name: "peer_metadata.unreadable", Prom: "pillion_peer_metadata_unreadable_total", Raw: true,
		Kind: stats.KindCounter, Value: float64(s.Unreadable.Value())})
	e.Counter("metadata_exchange.alpn_protocol_found", "", s.Agreed.Value())
	e.Counter("metadata_exchange.alpn_protocol_not_found", "", s.NotAgreed.Value())
	e.Counter("metadata_exchange.initial_header_not_found", "", s.NoFrame.Value())
	e.Counter("metadata_exchange.header_not_found", "", s.BadFrame.Value())
	e.Counter("metadata_exchange.metadata_added", "", s.Sent.Value())
}

// Exchanger is what the filters of a process have in common. Safe for concurrent
// use.
type Exchanger struct {
	// Stats are what happened.
	Stats Stats

	node  *Node // immutable
	cache *cache
}

// NewExchanger returns the exchanger of a node.
func NewExchanger(n *Node) *Exchanger { return &Exchanger{node: n, cache: newCache()} }

// Config says what one filter does, by the sides of the proxy. Discovery reads what
// the other end says and takes it out; propagation tells it who we are.
type Config struct {
	DownstreamDiscovery, DownstreamPropagation bool
	UpstreamDiscovery, UpstreamPropagation     bool
	// MeshOnly tells nothing to clusters outside of the mesh (skip_external_clusters).
	MeshOnly bool
	// Labels are further labels to tell (additional_labels).
	Labels []string
}

// Filter is istio.metadata_exchange of one connection manager. Immutable.
type Filter struct {
	cfg Config
	x   *Exchanger
	say *words
}

// New returns a filter, nil if it has nothing to do.
func New(cfg Config, x *Exchanger) *Filter {
	if x.node.id == "" {
		cfg.UpstreamPropagation = false
		cfg.DownstreamPropagation = false
	}
	if !cfg.DownstreamDiscovery && !cfg.DownstreamPropagation && !cfg.UpstreamDiscovery && !cfg.UpstreamPropagation {
		return nil
	}
	return &Filter{cfg: cfg, x: x, say: x.node.say(cfg.Labels)}
}

// asked is which fields a client has sent.
type asked uint8

const (
	askedMetadata asked = 1 << iota
	askedID
)

// owner is under which an exchange keeps what its client has sent: a change of the
// route may change the filter.
var owner = new(byte)

// OnRequest learns who the client is and tells the host who we are.
func (f *Filter) OnRequest(ex *http.Exchange) filter.Status {
	if f.cfg.DownstreamDiscovery {
		f.readRequest(ex)
	}
	if f.cfg.UpstreamPropagation {
		// Also in the place of what the client says, who isn't us.
		fields := &ex.Req.Fields
		fields.SetID(http.HeaderXEnvoyPeerMetadata, f.say.header)
		fields.SetID(http.HeaderXEnvoyPeerMetadataID, f.say.id)
		ex.MeshOnly = f.cfg.MeshOnly
	}
	return filter.Continue
}

func (f *Filter) readRequest(ex *http.Exchange) {
	principal := ""
	if ex.Conn != nil {
		principal = ex.Conn.PeerPrincipal
	}
	got, peer := f.take(&ex.Req.Fields, principal)
	if peer != nil {
		ex.DownstreamPeer = peer
	}
	if got != 0 {
		ex.SetState(owner, got)
	}
}

// take takes the other end's fields out and returns which there were, and what they
// mean.
func (f *Filter) take(fields *http.Fields, principal string) (got asked, peer *http.Peer) {
	if value, ok := fields.Get(http.HeaderXEnvoyPeerMetadata); ok {
		got = askedMetadata
		if peer = f.x.cache.find(value, principal, decodeHeader); peer == nil {
			f.x.Stats.Unreadable.Inc()
		}
		fields.DelID(http.HeaderXEnvoyPeerMetadata)
	}
	if fields.Has(http.HeaderXEnvoyPeerMetadataID) {
		got |= askedID
		fields.DelID(http.HeaderXEnvoyPeerMetadataID)
	}
	return got, peer
}

// RespondsFirst implements filter.FirstResponder: metrics of streams are labelled
// with the host's workload as soon as its response begins.
func (f *Filter) RespondsFirst() {}

// OnResponse learns who the host is, and tells the client who we are, if it did.
func (f *Filter) OnResponse(ex *http.Exchange) {
	fields := &ex.Resp.Fields
	if f.cfg.UpstreamDiscovery {
		principal, _ := ex.UpstreamTLS.Principals()
		if _, peer := f.take(fields, principal); peer != nil && ex.Upstream != nil {
			ex.UpstreamPeer = peer
		}
	}
	if !f.cfg.DownstreamPropagation {
		return
	}
	// What the application says of itself is no business of the client's.
	fields.DelID(http.HeaderXEnvoyPeerMetadata)
	fields.DelID(http.HeaderXEnvoyPeerMetadataID)
	got, _ := ex.State(owner).(asked)
	if got&askedMetadata != 0 {
		fields.AddID(http.HeaderXEnvoyPeerMetadata, f.say.header)
	}
	if got&askedID != 0 {
		fields.AddID(http.HeaderXEnvoyPeerMetadataID, f.say.id)
	}
}
