// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/proxy/istio/source"
)

// resolution is how the endpoints of a service are found.
type resolution uint8

const (
	resolveStatic     resolution = iota // the endpoints are listed
	resolveDNS                          // every address that the endpoints' names have
	resolveLogicalDNS                   // one address of one name, asked anew
	resolveNone                         // the address that the client connected to
)

// service is one host of the mesh with its ports and endpoints, from a ServiceEntry or
// a Kubernetes Service. It is immutable once the registry is built.
type service struct {
	host       string // lower case; may be a wildcard
	name       string // the Kubernetes name; for a ServiceEntry the host
	namespace  string
	obj        *source.Object
	kubernetes bool
	external   bool // outside the mesh
	resolution resolution
	addresses  []string // virtual addresses, each once
	ports      []servicePort
	exportTo   []string
	aliases    []string // hosts of ExternalName services that stand for this one
	sans       []string // spec.subjectAltNames
	metadata   *structpb.Value
}

// servicePort is one port of a service.
type servicePort struct {
	name     string
	number   uint32
	protocol protocol
	// override is the port to connect to when the address is the client's own
	// (resolveNone); 0 is the client's port too.
	override  uint32
	endpoints []*endpoint
}

// hasGRPCWeb: clients may call a port of the service by gRPC-Web.
func (s *service) hasGRPCWeb() bool {
	return slices.ContainsFunc(s.ports, func(p servicePort) bool { return p.protocol == protoGRPCWeb })
}

// port finds a port by number; nil when the service has none such.
func (s *service) port(number uint32) *servicePort {
	for i := range s.ports {
		if s.ports[i].number == number {
			return &s.ports[i]
		}
	}
	return nil
}

// limitedTo returns the service with one of its ports only, nil if it doesn't have
// that one. Port 0 is all of them.
func (s *service) limitedTo(number uint32) *service {
	p := s.port(number)
	switch {
	case number == 0 || p != nil && len(s.ports) == 1:
		return s
	case p == nil:
		return nil
	}
	one := *s
	one.ports = []servicePort{*p}
	return &one
}

// hasPortsOf reports whether every port of another service is one of this one too.
func (s *service) hasPortsOf(other *service) bool {
	return !slices.ContainsFunc(other.ports, func(p servicePort) bool { return s.port(p.number) == nil })
}

// routablePorts counts the ports that take part in HTTP routing.
func (s *service) routablePorts() int {
	n := 0
	for i := range s.ports {
		if s.ports[i].protocol.routable() {
			n++
		}
	}
	return n
}

// visibleTo reports whether a proxy in a namespace may see the service.
func (s *service) visibleTo(namespace string) bool {
	return exported(s.exportTo, s.namespace, namespace)
}

// exported applies an exportTo list: "*" is everyone, "." the owner's namespace, "~"
// no one; an empty list is the mesh's default, everyone.
func exported(exportTo []string, owner, namespace string) bool {
	if len(exportTo) == 0 {
		return true
	}
	for _, e := range exportTo {
		if e == "*" || e == namespace || (e == "." && owner == namespace) {
			return true
		}
	}
	return false
}

// newServiceMetadata is how a cluster tells the metrics which service it belongs to.
func newServiceMetadata(host, name, namespace string) *structpb.Value {
	return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		"host":      structpb.NewStringValue(host),
		"name":      structpb.NewStringValue(name),
		"namespace": structpb.NewStringValue(namespace),
	}})
}

// absorb adds another ServiceEntry's view of the same host in the same namespace:
// ports that are new, endpoints of ports that aren't, and addresses.
func (s *service) absorb(other *service) {
	for _, a := range other.addresses {
		if !slices.Contains(s.addresses, a) {
			s.addresses = append(s.addresses, a)
		}
	}
	s.sans = append(slices.Clip(s.sans), other.sans...)
	for _, p := range other.ports {
		if have := s.port(p.number); have != nil {
			have.endpoints = append(have.endpoints, p.endpoints...)
		} else {
			s.ports = append(s.ports, p)
		}
	}
}

// workload is what an endpoint is an instance of.
type workload struct {
	name, namespace string
	labels          map[string]string
	weight          uint32 // 0 is 1
	locality        string // region/zone/subzone
	account         string // service account; "" is not known
	obj             *source.Object
	field           string // where obj has it; "" for the whole object
}

// endpoint is one address of one port of a service.
type endpoint struct {
	workload *workload
	// lb is the endpoint as it goes into load assignments. The service's cluster and
	// its subsets share it.
	lb        *endpointv3.LbEndpoint
	unhealthy bool
}

// labelTLSMode is the label by which a workload says that it takes mutual TLS, if its
// value is tlsModeIstio.
const (
	labelTLSMode = "security.istio.io/tlsMode"
	tlsModeIstio = "istio"
)

// unixPrefix marks an endpoint's address as the path of a Unix domain socket.
const unixPrefix = "unix://"

// newEndpoint makes an endpoint of a workload. A port is of no meaning to a Unix socket.
func newEndpoint(w *workload, address string, port uint32, clusterID string) *endpoint {
	weight := w.weight
	if weight == 0 {
		weight = 1
	}
	metadata := &corev3.Metadata{FilterMetadata: make(map[string]*structpb.Struct, 2)}
	metadata.FilterMetadata[metadataIstio] = &structpb.Struct{Fields: map[string]*structpb.Value{
		"workload": structpb.NewStringValue(w.describe(clusterID)),
	}}
	if mode := w.labels[labelTLSMode]; mode != "" && mode != "disabled" {
		metadata.FilterMetadata[metadataSocketMatch] = &structpb.Struct{
			Fields: map[string]*structpb.Value{"tlsMode": structpb.NewStringValue(mode)},
		}
	}
	return &endpoint{
		workload: w,
		lb: &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: newAddress(address, port)},
			},
			LoadBalancingWeight: wrapperspb.UInt32(weight),
			Metadata:            metadata,
		},
	}
}

// port is the one that connections go to; 0 for a Unix socket.
func (e *endpoint) port() uint32 {
	return e.lb.GetEndpoint().GetAddress().GetSocketAddress().GetPortValue()
}

// plain is the endpoint without the wish for mutual TLS.
func (e *endpoint) plain() *endpoint {
	lb := proto.Clone(e.lb).(*endpointv3.LbEndpoint)
	delete(lb.Metadata.FilterMetadata, metadataSocketMatch)
	return &endpoint{workload: e.workload, lb: lb, unhealthy: e.unhealthy}
}

// identities are the names that the workloads of a service prove: the service accounts
// of its endpoints, and what a ServiceEntry's subjectAltNames add. Sorted, each once.
func (s *service) identities(trustDomain string) []string {
	out := slices.Clone(s.sans)
	for i := range s.ports {
		for _, e := range s.ports[i].endpoints {
			if w := e.workload; w.account != "" {
				out = append(out, "spiffe://"+trustDomain+"/ns/"+w.namespace+"/sa/"+w.account)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// labelField is where a label of the workload was written, for messages.
func (w *workload) labelField(label string) string {
	field := "spec.labels"
	if _, ok := w.obj.Labels[label]; ok && w.field == "" {
		field = "metadata.labels"
	} else if w.field != "" {
		field = w.field + ".labels"
	}
	return joinField(field, label)
}

// describe packs what metrics say of a server, as istiod does: workload, namespace,
// canonical name, canonical revision (empty for "latest") and cluster.
func (w *workload) describe(clusterID string) string {
	name, revision := CanonicalService(w.labels, w.name)
	if revision == "latest" {
		revision = ""
	}
	return w.name + ";" + w.namespace + ";" + name + ";" + revision + ";" + clusterID
}

// firstLabel returns the value of the first key that the labels have.
func firstLabel(labels map[string]string, keys ...string) string {
	for _, k := range keys {
		if v, ok := labels[k]; ok {
			return v
		}
	}
	return ""
}

// newAddress makes an address of an IP address or name and a port, or of a Unix path.
func newAddress(address string, port uint32) *corev3.Address {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       address,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}
