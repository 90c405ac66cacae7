// SPDX-License-Identifier: Apache-2.0

package source

// Service is what a proxy needs of a Kubernetes v1 Service.
type Service struct {
	Type         string            // ClusterIP (also when not given), NodePort, LoadBalancer or ExternalName
	ClusterIPs   []string          // clusterIPs, or clusterIP alone; "None" is left out and sets Headless
	Headless     bool              // clusterIP is None
	ExternalName string            // the DNS name when Type is ExternalName
	Selector     map[string]string // labels of the pods; nil when endpoints are made by hand
	Ports        []ServicePort

	PublishNotReadyAddresses bool // endpoints count even when they aren't ready
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name        string // may be empty when the service has one port
	Port        uint32
	TargetPort  uint32 // port of the pod by number; 0 when TargetName is set
	TargetName  string // port of the pod by name; empty when TargetPort is set
	Protocol    string // TCP (also when not given), UDP or SCTP
	AppProtocol string // e.g. "http", "kubernetes.io/h2c"; may be empty
}

// EndpointSlice is what a proxy needs of a Kubernetes discovery.k8s.io/v1 EndpointSlice.
type EndpointSlice struct {
	ServiceName string // label kubernetes.io/service-name; empty when the slice belongs to none
	AddressType string // IPv4, IPv6 or FQDN
	Endpoints   []Endpoint
	Ports       []EndpointPort
}

// Endpoint is one endpoint of a slice: addresses that are one and the same workload.
type Endpoint struct {
	Addresses   []string // never empty
	Ready       bool     // true when not given
	Serving     bool     // as Ready when not given
	Terminating bool
	Hostname    string
	NodeName    string
	Zone        string
	TargetKind  string // targetRef, e.g. kind Pod; may be empty
	TargetName  string
	Labels      map[string]string // deprecatedTopology; nil in what Kubernetes writes today
}

// EndpointPort is one port of all endpoints of a slice.
type EndpointPort struct {
	Name        string // name of the service's port
	Port        uint32
	Protocol    string // TCP (also when not given), UDP or SCTP
	AppProtocol string
}
