// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"strconv"
	"strings"

	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// unknown is the value of a label that nothing is known for.
const unknown = "unknown"

// labelNames returns the labels in the order in which Istio adds them.
func labelNames() []string {
	return []string{
		"reporter",
		"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
		"source_principal", "source_app", "source_version", "source_cluster",
		"destination_workload", "destination_workload_namespace", "destination_principal", "destination_app",
		"destination_version", "destination_service", "destination_canonical_service",
		"destination_canonical_revision", "destination_service_name", "destination_service_namespace",
		"destination_cluster",
		"request_protocol", "response_code", "grpc_response_status", "response_flags", "connection_security_policy",
	}
}

// special is a route of istiod's that stands for no service.
type special uint8

const (
	specialNone special = iota
	specialBlackHole
	specialPassthrough
)

// The names that stand for traffic which no service is configured for.
const (
	blackHole   = "BlackHoleCluster"
	passthrough = "PassthroughCluster"
)

func specialRoute(route string) special {
	switch route {
	case "block_all":
		return specialBlackHole
	case "allow_any":
		return specialPassthrough
	}
	return specialNone
}

// reporterID is what makes two filters report the same way.
type reporterID struct {
	own     http.Peer
	inbound bool
	labels  string // labelling.key
}

// reporter finds the series of an exchange. Its labels are immutable.
type reporter struct {
	reporterID
	families *Families
	// requests, messages and raw are how the metrics of each group are labelled;
	// a group is empty if all of its metrics are dropped.
	requests []*plan[cells]
	messages []*plan[messageCells]
	raw      []*plan[tcpCells]
	// messageOwner is where hosts have their message counters attached.
	messageOwner messageOwner
}

func newReporter(id reporterID, l *labelling, f *Families) *reporter {
	return &reporter{
		reporterID: id, families: f,
		requests: planFor(l, requestMetrics, labelNames(), f.requestFamily),
		messages: planFor(l, messageMetrics, labelNames()[:numPeerLabels], f.messageFamily),
		raw:      planFor(l, tcpMetrics, tcpLabelNames(), f.tcpFamily),
	}
}

// find returns the series of the exchange by one plan; k is its key.
func (r *reporter) find(p *plan[cells], ex *http.Exchange, k *key) *stats.Series[cells] {
	if len(p.varies) > 0 {
		p.vary(k, ex, nil)
	}
	h := p.cached(ex.ClusterName, ex.Upstream)
	if s := h.find(k); s != nil {
		return s
	}
	s := p.family.With(p.values(r.values(ex, k), ex, nil)...)
	s.Cells.used.Or(p.mask)
	h.put(*k, s)
	return s
}

// cached returns the cache that the series of a cluster's host are in.
func (p *plan[C]) cached(cluster string, host *http.HostFacts) *handles[*stats.Series[C]] {
	if host == nil {
		return p.noHost.get(cluster)
	}
	h, ok := host.Attached(p).(*handles[*stats.Series[C]])
	if !ok {
		h = host.Attach(p, &handles[*stats.Series[C]]{}).(*handles[*stats.Series[C]])
	}
	return h
}

// numPeerLabels is how many of labelNames tell of both ends, and not of what
// became of the request.
const numPeerLabels = 20

// values returns the label values, in the order of labelNames.
func (r *reporter) values(ex *http.Exchange, k *key) []string {
	protocol, status := "http", ""
	if g, ok := k.grpc(); ok {
		protocol, status = "grpc", grpcLabel(g)
	}
	return append(r.peerValues(ex, k), protocol, strconv.Itoa(k.status()), status, k.flags().String(), r.security(k))
}

// peerValues returns the values of the first numPeerLabels labels.
func (r *reporter) peerValues(ex *http.Exchange, k *key) []string {
	return r.endValues(ex.ClusterName, ex.Upstream, k)
}

// endValues is peerValues for a cluster and its host, which may be nil.
func (r *reporter) endValues(cluster string, host *http.HostFacts, k *key) []string {
	var upstream http.Peer
	if host != nil {
		upstream = host.Peer
		if cluster == "" {
			cluster = host.ClusterName
		}
	}
	service := r.service(cluster, upstream, k.special())
	v := make([]string, 0, len(labelNames()))
	if r.inbound {
		return r.appendInbound(append(v, "destination"), service, k)
	}
	return r.appendOutbound(append(v, "source"), service, upstream, k)
}

// appendOutbound appends the labels of both ends as a client knows them.
func (r *reporter) appendOutbound(v []string, s Service, peer http.Peer, k *key) []string {
	own := r.own
	if k.peer != nil {
		peer = *k.peer
	}
	own.Principal, peer.Principal = k.own, k.principal
	namespace := firstOf(namespaceOf(peer.Principal), peer.Namespace)
	peer.Namespace = namespace
	v = appendSource(v, own)
	return appendDestination(v, peer, Service{
		Host:      s.Host,
		Name:      s.Name,
		Namespace: firstOf(s.Namespace, namespace),
	})
}

// appendInbound appends the labels of both ends as a server knows them.
func (r *reporter) appendInbound(v []string, s Service, k *key) []string {
	var peer http.Peer
	if k.peer != nil {
		peer = *k.peer
	}
	peer.Principal = k.principal
	peer.Namespace = firstOf(namespaceOf(k.principal), peer.Namespace)
	own := r.own
	own.Principal = k.own
	v = appendSource(v, peer)
	return appendDestination(v, own, Service{
		Host:      firstOf(s.Host, own.CanonicalService),
		Name:      firstOf(s.Name, own.CanonicalService),
		Namespace: own.Namespace,
	})
}

func appendSource(v []string, p http.Peer) []string {
	return append(v, known(p.Workload), known(p.CanonicalService), firstOf(p.CanonicalRevision, "latest"),
		known(p.Namespace), known(p.Principal), known(p.App), known(p.Version), known(p.ClusterID))
}

func appendDestination(v []string, p http.Peer, s Service) []string {
	return append(v, known(p.Workload), known(p.Namespace), known(p.Principal), known(p.App), known(p.Version),
		known(s.Host), known(p.CanonicalService), firstOf(p.CanonicalRevision, "latest"),
		known(s.Name), known(s.Namespace), known(p.ClusterID))
}

// security returns whether both ends proved who they are, which a client
// leaves for the server to say.
func (r *reporter) security(k *key) string {
	switch {
	case !r.inbound:
		return unknown
	case k.principal != "" && k.own != "":
		return "mutual_tls"
	}
	return "none"
}

// service returns the destination service of a cluster.
func (r *reporter) service(cluster string, upstream http.Peer, sp special) Service {
	switch sp {
	case specialBlackHole:
		return Service{Name: blackHole}
	case specialPassthrough:
		return Service{Name: passthrough}
	}
	switch cluster {
	case blackHole, passthrough, "InboundPassthroughCluster", "InboundPassthroughClusterIpv4", "InboundPassthroughClusterIpv6":
		return Service{Name: cluster}
	}
	s := Service{Host: upstream.ServiceHost, Name: upstream.ServiceName, Namespace: upstream.ServiceNS}
	if s.Host == "" && r.families.services != nil {
		s, _ = r.families.services(cluster)
	}
	if s.Host == "" {
		return serviceOfName(cluster)
	}
	if s.Name == "" {
		s.Name, _, _ = strings.Cut(s.Host, ".")
	}
	return s
}

// serviceOfName reads the service out of a cluster's name of the form
// direction|port|subset|host, as istiod makes them. The host of a Kubernetes
// service holds its name and namespace: name.namespace.svc.domain.
func serviceOfName(cluster string) Service {
	parts := strings.Split(cluster, "|")
	if len(parts) != 4 || parts[3] == "" {
		return Service{}
	}
	s := Service{Host: parts[3], Name: parts[3]}
	if labels := strings.SplitN(s.Host, ".", 4); len(labels) == 4 && labels[2] == "svc" {
		s.Name, s.Namespace = labels[0], labels[1]
	}
	return s
}

// namespaceOf returns the namespace in a SPIFFE identity of Istio's form:
// spiffe://trust-domain/ns/namespace/sa/account.
func namespaceOf(principal string) string {
	_, rest, ok := strings.Cut(principal, "/ns/")
	if !ok {
		return ""
	}
	namespace, _, _ := strings.Cut(rest, "/")
	return namespace
}

func known(s string) string { return firstOf(s, unknown) }

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
