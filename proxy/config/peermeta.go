// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/filter/peermeta"
	"pillion/proxy/tcp"
)

const peerMetadataType = "io.istio.http.peer_metadata.Config"

// exchanger is what all filters of the exchange of metadata have in common. It lives
// on between compilations.
func (c *Compiler) exchanger() *peermeta.Exchanger {
	if c.filters.peers == nil {
		c.filters.peers = peermeta.NewExchanger(peermeta.NewNode(c.env.Own, c.env.Labels, c.env.NodeID))
		c.env.Registry.Add(&c.filters.peers.Stats)
	}
	return c.filters.peers
}

// DescribeNode fills in what the proxy's node says of the workload: its id, and the
// metadata and the place that istiod is told, too (NAME, NAMESPACE, WORKLOAD_NAME, OWNER,
// CLUSTER_ID, LABELS). region and zone may be empty.
func (e *Env) DescribeNode(id string, metadata *structpb.Struct, region, zone string) {
	e.NodeID = id
	e.Own = peermeta.PeerOf(metadata)
	e.Own.Detail.Region, e.Own.Detail.Zone = region, zone
	e.Labels = e.Own.Detail.Labels
}

// buildPeerMetadata builds Istio's exchange of metadata for requests. Ways of
// learning or telling that aren't known change labels of metrics alone, so they are
// warned about.
func buildPeerMetadata(ch *chains, base, _ *anypb.Any) (any, error) {
	s, err := typedStruct(base)
	if err != nil {
		return nil, err
	}
	var cfg peermeta.Config
	for _, name := range slices.Sorted(maps.Keys(s.GetFields())) {
		v := s.GetFields()[name]
		switch name {
		case "downstream_discovery":
			cfg.DownstreamDiscovery = ch.methods(&cfg, name, v)
		case "downstream_propagation":
			cfg.DownstreamPropagation = ch.methods(&cfg, name, v)
		case "upstream_discovery":
			cfg.UpstreamDiscovery = ch.methods(&cfg, name, v)
		case "upstream_propagation":
			cfg.UpstreamPropagation = ch.methods(&cfg, name, v)
		case "additional_labels":
			cfg.Labels = texts(v)
		case "skip_external_clusters":
			cfg.MeshOnly = cfg.MeshOnly || v.GetBoolValue()
		case "shared_with_upstream": // with filters upstream of this proxy, of which there are none
		default:
			ch.warn("http_filters: istio.metadata_exchange: " + name + ": is not known and has no effect")
		}
	}
	f := peermeta.New(cfg, ch.c.exchanger())
	if f == nil {
		return nil, nil
	}
	return f, nil
}

// methods reports whether a list of methods has that of Istio's header fields.
// Istio sends it together with workload_discovery, which asks istiod for who has an
// address, where the fields say nothing; we then do without.
func (ch *chains) methods(cfg *peermeta.Config, list string, v *structpb.Value) (fields bool) {
	for i, m := range v.GetListValue().GetValues() {
		for name, o := range m.GetStructValue().GetFields() {
			switch name {
			case "istio_headers":
				fields = true
				cfg.MeshOnly = cfg.MeshOnly || o.GetStructValue().GetFields()["skip_external_clusters"].GetBoolValue()
			case "workload_discovery":
			default:
				ch.warn(fmt.Sprintf("http_filters: istio.metadata_exchange: %s[%d].%s: is not supported and has no effect", list, i, name))
			}
		}
	}
	return fields
}

// peerExchange is Istio's exchange of metadata on raw connections.
type peerExchange struct {
	protocol string
	labels   []string
}

// compilePeerExchange reads its configuration. The protocol decides what the other
// end takes for data, so it has to be there.
func compilePeerExchange(a *anypb.Any) (*peerExchange, error) {
	s, err := typedStruct(a)
	if err != nil {
		return nil, err
	}
	x := &peerExchange{protocol: s.GetFields()["protocol"].GetStringValue(), labels: texts(s.GetFields()["additional_labels"])}
	if x.protocol == "" {
		return nil, fmt.Errorf("protocol: is required")
	}
	return x, nil
}

// exchangePeers has a TCP proxy tell clients and hosts who we are: clients by the
// network filter x, which may be nil, hosts by that of their cluster.
func (c *Compiler) exchangePeers(cfg *tcp.Config, x *peerExchange) {
	cfg.Peers = c.exchanger()
	if x != nil {
		cfg.PeerProtocol, cfg.PeerLabels = x.protocol, x.labels
	}
}

// peers compiles what the cluster's hosts are told of our workload.
func (b *clusterBuilder) peers(c *clusterv3.Cluster) error {
	istio := c.GetMetadata().GetFilterMetadata()["istio"].GetFields()
	b.out.NoPeerMetadata = istio["disable_mx"].GetBoolValue()
	b.out.External = istio["external"].GetBoolValue() || c.GetName() == "PassthroughCluster"
	for i, f := range c.GetFilters() {
		if messageType(f.GetTypedConfig()) != metadataExchangeType {
			b.warn("filters[%d] (%s): upstream network filters are not supported", i, f.GetName())
			continue
		}
		x, err := compilePeerExchange(f.GetTypedConfig())
		if err != nil {
			return fmt.Errorf("filters[%d].typed_config.value.%w", i, err)
		}
		b.out.PeerProtocol, b.out.PeerLabels = x.protocol, x.labels
	}
	return nil
}

// typedStruct returns the content of a TypedStruct.
func typedStruct(a *anypb.Any) (*structpb.Struct, error) {
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil, err
	}
	t, ok := m.(interface{ GetValue() *structpb.Struct })
	if !ok {
		return nil, fmt.Errorf("is a %s, and only a TypedStruct is known", a.GetTypeUrl())
	}
	return t.GetValue(), nil
}

// texts are the strings of a list.
func texts(v *structpb.Value) (out []string) {
	for _, s := range v.GetListValue().GetValues() {
		out = append(out, s.GetStringValue())
	}
	return out
}
