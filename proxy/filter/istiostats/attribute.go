// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"bytes"
	"net"
	"strconv"
	"strings"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// subject is what an expression is about: a request, or else a raw connection.
type subject struct {
	ex   *http.Exchange
	raw  *filter.Connection
	peer *http.Peer // of the client
	host *http.Peer // of the host
}

// be makes s that of a request or, if ex is nil, of a raw connection.
func (s *subject) be(ex *http.Exchange, raw *filter.Connection) {
	if ex != nil {
		*s = subject{ex: ex, peer: ex.DownstreamPeer, host: ex.UpstreamPeer}
	} else {
		*s = subject{raw: raw, peer: raw.Peer, host: raw.UpstreamPeer}
	}
	if f := s.facts(); s.host == nil && f.Peer.Workload != "" {
		s.host = &f.Peer // as far as its endpoint's metadata say
	}
}

func (s *subject) conn() *http.ConnInfo {
	c := &noConn
	if s.ex != nil && s.ex.Conn != nil {
		c = s.ex.Conn
	}
	if s.raw != nil && s.raw.Conn != nil {
		c = s.raw.Conn
	}
	return c
}

var noConn http.ConnInfo

func (s *subject) facts() *http.HostFacts {
	f := &noHost
	if s.ex != nil && s.ex.Upstream != nil {
		f = s.ex.Upstream
	}
	if s.raw != nil && s.raw.Host != nil {
		f = s.raw.Host
	}
	return f
}

var noHost http.HostFacts

func (s *subject) upstreamTLS() *http.TLSInfo {
	if s.ex != nil {
		return s.ex.UpstreamTLS
	}
	return s.raw.TLS
}

// attribute is one that a path names.
type attribute func(s *subject) value

func (a attribute) eval(s *subject) value { return a(s) }

// ofRequest is one that raw connections don't have.
func ofRequest(f func(ex *http.Exchange) value) attribute {
	return func(s *subject) value {
		if s.ex == nil {
			return value{}
		}
		return f(s.ex)
	}
}

func header(fields func(*http.Exchange) *http.Fields, name string) attribute {
	b := []byte(strings.ToLower(name))
	id := http.LookupHeader(b)
	return ofRequest(func(ex *http.Exchange) value {
		v, ok := fields(ex).Lookup(id, b)
		return givenIf(bytesOf(v), ok)
	})
}

func requestFields(ex *http.Exchange) *http.Fields  { return &ex.Req.Fields }
func responseFields(ex *http.Exchange) *http.Fields { return &ex.Resp.Fields }

func path(ex *http.Exchange) []byte {
	if ex.OriginalPath != nil {
		return ex.OriginalPath
	}
	return ex.Req.Path
}

// attributes are Envoy's, by their names
// (https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes).
var attributes = map[string]attribute{
	"request.host":       ofRequest(func(ex *http.Exchange) value { return givenBytes(ex.Req.Authority) }),
	"request.method":     ofRequest(func(ex *http.Exchange) value { return givenBytes(ex.Req.RawMethod) }),
	"request.path":       ofRequest(func(ex *http.Exchange) value { return givenBytes(path(ex)) }),
	"request.scheme":     ofRequest(func(ex *http.Exchange) value { return givenBytes(ex.Req.Scheme) }),
	"request.protocol":   ofRequest(func(ex *http.Exchange) value { return textOf(ex.Req.Protocol.String()) }),
	"request.id":         header(requestFields, "x-request-id"),
	"request.useragent":  header(requestFields, "user-agent"),
	"request.referer":    header(requestFields, "referer"),
	"request.size":       ofRequest(func(ex *http.Exchange) value { return numberOf(ex.RequestBodyBytes) }),
	"request.total_size": ofRequest(func(ex *http.Exchange) value { return numberOf(ex.RequestHeadBytes + ex.RequestBodyBytes) }),
	"request.url_path": ofRequest(func(ex *http.Exchange) value {
		p, _, _ := bytes.Cut(path(ex), []byte("?"))
		return givenBytes(p)
	}),
	"request.query": ofRequest(func(ex *http.Exchange) value {
		_, q, found := bytes.Cut(path(ex), []byte("?"))
		return givenIf(bytesOf(q), found)
	}),
	"response.code":         ofRequest(func(ex *http.Exchange) value { return givenIf(numberOf(int64(ex.Resp.Status)), ex.Resp.Status != 0) }),
	"response.code_details": ofRequest(func(ex *http.Exchange) value { return given(ex.Details) }),
	"response.size":         ofRequest(func(ex *http.Exchange) value { return numberOf(ex.ResponseBodyBytes) }),
	"response.total_size":   ofRequest(func(ex *http.Exchange) value { return numberOf(ex.ResponseHeadBytes + ex.ResponseBodyBytes) }),
	"response.grpc_status": ofRequest(func(ex *http.Exchange) value {
		code := grpcStatus(ex)
		return givenIf(numberOf(int64(code)), ex.GRPC && code != grpcNone)
	}),

	"source.address":      func(s *subject) value { return given(s.conn().Remote) },
	"source.port":         func(s *subject) value { return portOf(s.conn().Remote) },
	"destination.address": func(s *subject) value { return given(s.conn().Destination()) },
	"destination.port":    func(s *subject) value { return portOf(s.conn().Destination()) },
	"upstream.address":    func(s *subject) value { return given(s.facts().Address) },
	"upstream.port":       func(s *subject) value { return portOf(s.facts().Address) },
	"upstream.uri_san_peer_certificate": func(s *subject) value {
		peer, _ := s.upstreamTLS().Principals()
		return given(peer)
	},
	"upstream.uri_san_local_certificate": func(s *subject) value {
		_, own := s.upstreamTLS().Principals()
		return given(own)
	},
	"upstream.transport_failure_reason": ofRequest(func(ex *http.Exchange) value { return given(ex.UpstreamFailure) }),

	"connection.mtls":                      func(s *subject) value { return truth(s.conn().PeerPrincipal != "") },
	"connection.requested_server_name":     func(s *subject) value { return given(s.conn().SNI) },
	"connection.uri_san_peer_certificate":  func(s *subject) value { return given(s.conn().PeerPrincipal) },
	"connection.uri_san_local_certificate": func(s *subject) value { return given(s.conn().OwnPrincipal) },
	"connection.termination_details":       ofRequest(func(ex *http.Exchange) value { return given(ex.TerminationDetails) }),
	"connection.tls_version": func(s *subject) value {
		if t := s.conn().TLS; t != nil {
			return given(t.Version)
		}
		return value{}
	},

	"xds.route_name":        ofRequest(func(ex *http.Exchange) value { return given(ex.RouteName) }),
	"xds.virtual_host_name": ofRequest(func(ex *http.Exchange) value { return given(ex.VirtualHost) }),
	"xds.cluster_name": func(s *subject) value {
		if s.ex != nil {
			return given(s.ex.ClusterName)
		}
		return given(s.raw.Cluster)
	},
}

func portOf(address string) value {
	_, port, err := net.SplitHostPort(address)
	n, numErr := strconv.ParseUint(port, 10, 16)
	return givenIf(numberOf(int64(n)), err == nil && numErr == nil)
}

// attributeOf finds what a path names, nil if it is nothing that is known.
func attributeOf(path []string) node {
	switch strings.Join(path[:min(len(path), 2)], ".") {
	case "request.headers":
		if len(path) == 3 {
			return header(requestFields, path[2])
		}
		return nil
	case "response.headers":
		if len(path) == 3 {
			return header(responseFields, path[2])
		}
		return nil
	}
	if path[0] == "filter_state" {
		path = path[1:]
	}
	if len(path) >= 2 && (path[0] == "upstream_peer" || path[0] == "downstream_peer") {
		return peerAttribute(path[0] == "upstream_peer", path[1:])
	}
	if a := attributes[strings.Join(path, ".")]; a != nil {
		return a
	}
	return nil
}

// peerAttribute is a field of what is known of a peer.
func peerAttribute(host bool, path []string) node {
	field := peerFields[path[0]]
	if path[0] == "labels" && (len(path) == 2 || len(path) == 3 && path[2] == "value") {
		field = func(p *http.Peer) string {
			if p.Detail == nil {
				return ""
			}
			return p.Detail.Labels[path[1]]
		}
	} else if len(path) != 1 {
		field = nil
	}
	if field == nil {
		return nil
	}
	return attribute(func(s *subject) value {
		p := s.peer
		if host {
			p = s.host
		}
		if p == nil {
			return value{}
		}
		return given(field(p))
	})
}

// peerFields are the fields of a peer, as Istio's filter state has them.
var peerFields = map[string]func(p *http.Peer) string{
	"workload":          func(p *http.Peer) string { return p.Workload },
	"namespace":         func(p *http.Peer) string { return p.Namespace },
	"cluster":           func(p *http.Peer) string { return p.ClusterID },
	"service":           func(p *http.Peer) string { return p.CanonicalService },
	"revision":          func(p *http.Peer) string { return p.CanonicalRevision },
	"app":               func(p *http.Peer) string { return p.App },
	"version":           func(p *http.Peer) string { return p.Version },
	"name":              detail(func(d *http.PeerDetail) string { return d.Name }),
	"identity":          detail(func(d *http.PeerDetail) string { return d.Identity }),
	"region":            detail(func(d *http.PeerDetail) string { return d.Region }),
	"availability_zone": detail(func(d *http.PeerDetail) string { return d.Zone }),
	"type":              detail(func(d *http.PeerDetail) string { return workloadType(d.Owner) }),
}

func detail(f func(d *http.PeerDetail) string) func(p *http.Peer) string {
	return func(p *http.Peer) string {
		if p.Detail == nil {
			return ""
		}
		return f(p.Detail)
	}
}

// workloadType is the kind in an owner's path, kubernetes://…/namespaces/NAMESPACE/KINDs/NAME.
func workloadType(owner string) string {
	parts := strings.Split(owner, "/")
	if len(parts) < 2 {
		return ""
	}
	return strings.TrimSuffix(parts[len(parts)-2], "s")
}

// attribute finds what a path says of the node, which is the same for all requests.
func (n *Node) attribute(path []string) (v value, known bool) {
	if path[0] == "xds" && len(path) > 1 {
		path = path[1:]
	}
	if path[0] != "node" || len(path) < 2 {
		return v, false
	}
	own := n.Own
	if own.Detail == nil {
		own.Detail = &http.PeerDetail{}
	}
	if len(path) == 2 && path[1] == "id" {
		return given(n.ID), true
	}
	if path[1] != "metadata" || len(path) < 3 {
		return v, false
	}
	if path[2] == "LABELS" && len(path) == 4 {
		return given(n.Labels[path[3]]), true
	}
	metadata := map[string]string{
		"NAME": own.Detail.Name, "NAMESPACE": own.Namespace, "WORKLOAD_NAME": own.Workload, "CLUSTER_ID": own.ClusterID,
		"OWNER": own.Detail.Owner,
	}
	text, known := metadata[path[2]]
	return given(text), known && len(path) == 3
}
