// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unique"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"pillion/proxy/cluster"
	"pillion/proxy/pool"
	"pillion/proxy/tls"
)

// clusterFields are the fields of a Cluster that this file and those beside
// it compile, or that change nothing here:
//
//   - how its endpoints come is the source's business (eds_cluster_config),
//     and so is what to wait for (wait_for_warm_on_init);
//   - buffers have one bound for the whole proxy (per_connection_buffer_limit_bytes);
//   - names are resolved by the system's resolver (typed_dns_resolver_config),
//     which does not tell how long an answer is valid (respect_dns_ttl);
//   - there are no active health checks whose state would have to be kept
//     (ignore_health_on_host_removal).
var clusterFields = fieldSet("name", "alt_stat_name", "type", "eds_cluster_config", "connect_timeout", "lb_policy",
	"load_assignment", "circuit_breakers", "typed_extension_protocol_options", "dns_refresh_rate", "dns_jitter", "dns_failure_refresh_rate",
	"respect_dns_ttl", "dns_lookup_family", "typed_dns_resolver_config", "wait_for_warm_on_init", "outlier_detection",
	"cleanup_interval", "upstream_bind_config", "ring_hash_lb_config", "maglev_lb_config", "original_dst_lb_config",
	"least_request_lb_config", "round_robin_lb_config", "common_lb_config", "transport_socket", "transport_socket_matches", "metadata",
	"upstream_connection_options", "filters", "per_connection_buffer_limit_bytes", "ignore_health_on_host_removal",
	"close_connections_on_host_health_failure", "track_cluster_stats", "preconnect_policy")

// CompileCluster compiles a cluster with its endpoints. cla is the load
// assignment that came apart from it; nil if there is none yet, or if it
// stands in the cluster. Errors begin with the path of the field that can't
// be honoured. Warnings name what is left out because the cluster serves all
// the same.
func CompileCluster(c *clusterv3.Cluster, cla *endpointv3.ClusterLoadAssignment) (*cluster.Config, []string, error) {
	return compileCluster(c, cla, newTLSContexts(tls.NewSecrets()), nil, nil)
}

// compileCluster is CompileCluster with what TLS contexts are wired to, what
// connections with TLS offer instead of what these say (nil for that), and
// Resources.Octets.
func compileCluster(c *clusterv3.Cluster, cla *endpointv3.ClusterLoadAssignment, contexts *tlsContexts, alpn *pool.ALPN,
	octets map[proto.Message][]byte) (*cluster.Config, []string, error) {
	out, warnings, err := buildCluster(c, cla, contexts, alpn)
	if err != nil {
		return nil, nil, err
	}
	out.Hash, err = contentHash(c, cla, alpnText(out.Conn.ALPN), octets)
	return out, warnings, err
}

// buildCluster is compileCluster without a Hash.
func buildCluster(c *clusterv3.Cluster, cla *endpointv3.ClusterLoadAssignment, contexts *tlsContexts, alpn *pool.ALPN) (*cluster.Config, []string, error) {
	b := &clusterBuilder{in: c, out: &cluster.Config{}, contexts: contexts, alpn: alpn}
	if c.GetName() == "" {
		return nil, nil, fmt.Errorf("name: is empty")
	}
	if err := onlyFields(c, clusterFields); err != nil {
		return nil, nil, err
	}
	for _, step := range []func() error{b.names, b.connections, b.protocol, b.limits, b.outlier, b.balance, b.discovery, b.socket} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	if err := b.endpoints(cla); err != nil {
		return nil, nil, err
	}
	if err := b.out.Validate(); err != nil {
		return nil, nil, err
	}
	b.ignored()
	return b.out, b.warnings, nil
}

// CompileEndpoints compiles a load assignment of a cluster that is compiled
// already, for cluster.Manager.SetEndpoints.
func (c *Compiler) CompileEndpoints(in *clusterv3.Cluster, cla *endpointv3.ClusterLoadAssignment) ([]cluster.Endpoint, []string, error) {
	b := &clusterBuilder{in: in, out: &cluster.Config{Discovery: cluster.EDS}, contexts: c.tls}
	// Localities depend on the balance, and sockets are chosen by endpoint.
	for _, step := range []func() error{b.balance, b.socket} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	if err := b.endpoints(cla); err != nil {
		return nil, nil, err
	}
	return b.out.Endpoints, b.warnings, nil
}

// clusterBuilder compiles one cluster.
type clusterBuilder struct {
	in       *clusterv3.Cluster
	out      *cluster.Config
	contexts *tlsContexts
	alpn     *pool.ALPN // what replaces that of TLS contexts; may be nil
	sockets  []socketMatch
	plain    socketMatch // transport_socket
	warnings []string
}

func (b *clusterBuilder) warn(format string, args ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
}

// hashed are buffers for contentHash: a set of thousands of clusters would make one
// for each.
var hashed = sync.Pool{New: func() any { return new([]byte) }}

// contentHash stands for all that a cluster is compiled from; more is what comes
// from elsewhere.
func contentHash(c *clusterv3.Cluster, cla *endpointv3.ClusterLoadAssignment, more string, octets map[proto.Message][]byte) (h [16]byte, err error) {
	buf := hashed.Get().(*[]byte)
	defer hashed.Put(buf)
	wire, err := appendOctets((*buf)[:0], c, octets)
	if err == nil && cla != nil {
		wire, err = appendOctets(append(wire, 0), cla, octets)
	}
	if err != nil {
		return h, fmt.Errorf("is no valid message: %w", err)
	}
	wire = append(append(wire, 0), more...)
	*buf = wire
	sum := sha256.Sum256(wire)
	copy(h[:], sum[:])
	return h, nil
}

// appendOctets appends what m is serialized to, which known may have.
func appendOctets(b []byte, m proto.Message, known map[proto.Message][]byte) ([]byte, error) {
	if octets, ok := known[m]; ok {
		return append(b, octets...), nil
	}
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, m)
}

// at puts the path of a field before an error.
func at(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s.%w", path, err)
}

// shared returns a copy of s that all who ask for the same text share: a mesh
// repeats names of workloads, namespaces and addresses thousands of times.
func shared(s string) string {
	if s == "" {
		return ""
	}
	return unique.Make(s).Value()
}

// span is the value of a duration field, def if it isn't set.
func span(field string, d *durationpb.Duration, def time.Duration) (time.Duration, error) {
	if d == nil {
		return def, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, fmt.Errorf("%s: %w", field, err)
	}
	if v := d.AsDuration(); v >= 0 {
		return v, nil
	}
	return 0, fmt.Errorf("%s: must not be negative", field)
}

// names compiles what the cluster is called.
func (b *clusterBuilder) names() error {
	c := b.in
	b.out.Name = c.GetName()
	if alt := c.GetAltStatName(); alt != "" {
		b.out.StatName = alt
		// Istio's stat name is the name and a delimiter: keep one string.
		if strings.HasPrefix(alt, b.out.Name) {
			b.out.Name = alt[:len(b.out.Name)]
		}
	}
	if b.out.EDSServiceName = c.GetEdsClusterConfig().GetServiceName(); b.out.EDSServiceName == b.out.Name {
		b.out.EDSServiceName = b.out.Name // as above; with Istio they are equal
	}
	istio := c.GetMetadata().GetFilterMetadata()["istio"].GetFields()
	b.out.Reference = shared(istio["config"].GetStringValue())
	if services := istio["services"].GetListValue().GetValues(); len(services) > 0 {
		f := services[0].GetStructValue().GetFields()
		b.out.ServiceHost = shared(f["host"].GetStringValue())
		b.out.ServiceName = shared(f["name"].GetStringValue())
		b.out.ServiceNamespace = shared(f["namespace"].GetStringValue())
	}
	return b.peers(c)
}

// connections compiles how connections are made.
func (b *clusterBuilder) connections() error {
	b.out.Conn = pool.Defaults()
	s := &b.out.Conn
	var err error
	if s.ConnectTimeout, err = span("connect_timeout", b.in.GetConnectTimeout(), s.ConnectTimeout); err != nil {
		return err
	}
	if s.ConnectTimeout == 0 {
		return fmt.Errorf("connect_timeout: must be greater than 0")
	}
	if ka := b.in.GetUpstreamConnectionOptions().GetTcpKeepalive(); ka != nil {
		s.Socket.Keepalive = true
		s.Socket.KeepaliveTime = time.Duration(ka.GetKeepaliveTime().GetValue()) * time.Second
		s.Socket.KeepaliveInterval = time.Duration(ka.GetKeepaliveInterval().GetValue()) * time.Second
		s.Socket.KeepaliveProbes = int(min(ka.GetKeepaliveProbes().GetValue(), 127)) // the kernel's bound
	}
	return at("upstream_bind_config", b.bind(b.in.GetUpstreamBindConfig()))
}

var (
	bindFields        = fieldSet("source_address", "extra_source_addresses", "freebind")
	extraSourceFields = fieldSet("address")
)

// bind compiles the local addresses of connections: of several, the first one of a
// host's own family counts (Envoy: DefaultUpstreamLocalAddressSelector).
func (b *clusterBuilder) bind(c *corev3.BindConfig) error {
	if c == nil {
		return nil
	}
	if err := onlyFields(c, bindFields); err != nil {
		return err
	}
	if c.GetFreebind().GetValue() {
		return fmt.Errorf("freebind: is not supported")
	}
	src, err := sourceAddress(c.GetSourceAddress())
	if err != nil {
		return at("source_address", err)
	}
	socket := &b.out.Conn.Socket
	socket.Bind = src
	for i, e := range c.GetExtraSourceAddresses() {
		path := fmt.Sprintf("extra_source_addresses[%d]", i)
		if c.GetSourceAddress() == nil {
			return fmt.Errorf("%s: stands without a source_address", path)
		}
		if err := onlyFields(e, extraSourceFields); err != nil {
			return at(path, err)
		}
		extra, err := sourceAddress(e.GetAddress())
		if err != nil {
			return at(path+".address", err)
		}
		if sameFamily := src.IsValid() && src.Addr().Is4() == extra.Addr().Is4(); extra.IsValid() && !sameFamily && !socket.BindOther.IsValid() {
			socket.BindOther = extra
		}
	}
	return nil
}

// sourceAddress reads a local address; not valid where the kernel chooses.
func sourceAddress(src *corev3.SocketAddress) (none netip.AddrPort, err error) {
	if src == nil {
		return none, nil
	}
	ip, err := netip.ParseAddr(src.GetAddress())
	if err != nil {
		return none, fmt.Errorf("address: %q is no IP address", src.GetAddress())
	}
	if src.GetPortValue() > 65535 {
		return none, fmt.Errorf("port_value: %d is no port", src.GetPortValue())
	}
	if ip = ip.Unmap(); ip.IsUnspecified() && src.GetPortValue() == 0 {
		return none, nil
	}
	return netip.AddrPortFrom(ip, uint16(src.GetPortValue())), nil
}

// discovery compiles where hosts come from.
func (b *clusterBuilder) discovery() error {
	c := b.in
	switch c.GetType() {
	case clusterv3.Cluster_STATIC:
		b.out.Discovery = cluster.Static
	case clusterv3.Cluster_EDS:
		b.out.Discovery = cluster.EDS
	case clusterv3.Cluster_STRICT_DNS:
		b.out.Discovery = cluster.StrictDNS
		return b.resolution()
	case clusterv3.Cluster_LOGICAL_DNS:
		b.out.Discovery = cluster.LogicalDNS
		return b.resolution()
	case clusterv3.Cluster_ORIGINAL_DST:
		b.out.Discovery = cluster.OriginalDst
		return b.originalDst()
	default:
		return fmt.Errorf("type: %s is not supported", c.GetType())
	}
	return nil
}

// Defaults of dns_refresh_rate and dns_failure_refresh_rate.max_interval.
const (
	defaultRefresh   = 5 * time.Second
	failureMaxFactor = 10
)

func (b *clusterBuilder) resolution() error {
	c, d := b.in, &cluster.DNS{}
	var err error
	//lint:ignore SA1019 istiod sends this form
	if d.Refresh, err = span("dns_refresh_rate", c.GetDnsRefreshRate(), defaultRefresh); err != nil {
		return err
	}
	//lint:ignore SA1019 istiod sends this form
	if d.Jitter, err = span("dns_jitter", c.GetDnsJitter(), 0); err != nil {
		return err
	}
	d.FailureBase, d.FailureMax = d.Refresh, d.Refresh
	//lint:ignore SA1019 istiod sends this form
	if r := c.GetDnsFailureRefreshRate(); r != nil {
		if d.FailureBase, err = span("dns_failure_refresh_rate.base_interval", r.GetBaseInterval(), d.Refresh); err != nil {
			return err
		}
		if d.FailureMax, err = span("dns_failure_refresh_rate.max_interval", r.GetMaxInterval(), failureMaxFactor*d.FailureBase); err != nil {
			return err
		}
		if d.FailureMax < d.FailureBase {
			return fmt.Errorf("dns_failure_refresh_rate.max_interval: is less than base_interval")
		}
	}
	switch c.GetDnsLookupFamily() {
	case clusterv3.Cluster_AUTO:
		d.Family = cluster.FamilyAuto
	case clusterv3.Cluster_V4_ONLY:
		d.Family = cluster.FamilyV4Only
	case clusterv3.Cluster_V6_ONLY:
		d.Family = cluster.FamilyV6Only
	case clusterv3.Cluster_V4_PREFERRED:
		d.Family = cluster.FamilyV4Preferred
	case clusterv3.Cluster_ALL:
		d.Family = cluster.FamilyAll
	default:
		return fmt.Errorf("dns_lookup_family: %s is not supported", c.GetDnsLookupFamily())
	}
	b.out.DNS = d
	return nil
}

var originalFields = fieldSet("upstream_port_override")

func (b *clusterBuilder) originalDst() error {
	o := &cluster.OriginalLB{}
	var err error
	if o.Cleanup, err = span("cleanup_interval", b.in.GetCleanupInterval(), 0); err != nil {
		return err
	}
	if lb := b.in.GetOriginalDstLbConfig(); lb != nil {
		if err := onlyFields(lb, originalFields); err != nil {
			return at("original_dst_lb_config", err)
		}
		p := lb.GetUpstreamPortOverride().GetValue()
		if p > 65535 {
			return fmt.Errorf("original_dst_lb_config.upstream_port_override: %d is no port", p)
		}
		o.Port = uint16(p)
	}
	b.out.Original = o
	return nil
}

// ignored warns of fields that change less than the refusal of the cluster
// would.
func (b *clusterBuilder) ignored() {
	c := b.in
	if c.GetCloseConnectionsOnHostHealthFailure() {
		b.warn("close_connections_on_host_health_failure: requests in progress on a host that becomes unhealthy are finished")
	}
	if c.GetTrackClusterStats() != nil {
		b.warn("track_cluster_stats: these extra metrics are not kept")
	}
	if c.GetPreconnectPolicy() != nil {
		b.warn("preconnect_policy: connections are made when they are needed")
	}
	if b.out.Discovery == cluster.OriginalDst && c.GetOutlierDetection() != nil {
		b.warn("outlier_detection: is not done for ORIGINAL_DST clusters")
	}
}
