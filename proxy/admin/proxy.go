// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"crypto/x509"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/stats"
)

// Readiness tells whether the proxy serves.
type Readiness interface {
	// State is what /ready says; only stats.StateLive is ready.
	State() stats.State
	// WaitingFor names what keeps the proxy from being live, in words for a
	// person; empty when nothing does.
	WaitingFor() []string
}

// Clusters lists the upstream side.
type Clusters interface {
	// Clusters returns the state of every cluster, in the order of names.
	Clusters() []ClusterStatus
}

// ClusterStatus is one cluster and its hosts.
type ClusterStatus struct {
	Name string
	// ObservabilityName is the name in metrics; empty means Name.
	ObservabilityName string
	// AddedViaAPI is set for what came from a control plane.
	AddedViaAPI bool
	// EDSServiceName is what discovery calls the hosts; empty means Name.
	EDSServiceName string
	// Default and High are the circuit breakers of the two priorities; nil: there are
	// none of HIGH.
	Default Limits
	High    *Limits
	// OutlierDetection is set when hosts are ejected for their failures.
	OutlierDetection bool
	Hosts            []HostStatus
}

// Limits are the thresholds of a circuit breaker.
type Limits struct{ MaxConnections, MaxPendingRequests, MaxRequests, MaxRetries uint32 }

// HostStatus is one host of a cluster.
type HostStatus struct {
	// Address is ip:port, [ip]:port, or the path of a Unix socket.
	Address  string
	Hostname string // the name it was resolved from

	CxActive, RqActive, RqPendingActive                                uint64
	CxConnectFail, CxTotal, RqError, RqSuccess, RqTimeout, RqTotal     uint64
	FailedOutlierCheck, FailedActiveHealthCheck, PendingDynamicRemoval bool

	// Health is what discovery says; unknown counts as healthy.
	Health                corev3.HealthStatus
	Weight, Priority      uint32
	Region, Zone, SubZone string
	Canary                bool
}

// Listeners lists the downstream side.
type Listeners interface {
	// Listeners returns what is bound.
	Listeners() []ListenerStatus
}

// ListenerStatus is one listener and the addresses that it is bound to, as
// ip:port or the path of a Unix socket.
type ListenerStatus struct {
	Name      string
	Addresses []string
}

// Config gives the configuration that is served.
type Config interface {
	// ConfigDump returns it as of now. The result is only read.
	ConfigDump() Dump
}

// Dump is the configuration as the resources it came in.
type Dump struct {
	Bootstrap *Resource // nil when there is none
	// A name may stand several times behind each other in Listeners: what is
	// served, what is to be, and what is being drained.
	Clusters, Listeners, Routes, Endpoints, Secrets, Extensions []Resource
	// ClustersVersion and ListenersVersion are the versions of the last
	// response that brought such resources.
	ClustersVersion, ListenersVersion string
}

// Resource is one resource, serialized as it was received. It is decoded
// while it is written, so that a dump needs no memory for the whole.
type Resource struct {
	Name    string
	Version string
	Updated time.Time
	// Static is set for what the bootstrap brought, Warming for what is not
	// served yet, Draining for what the control plane has taken back.
	Static, Warming, Draining bool
	// Message is nil of a name of which nothing was ever accepted.
	Message *anypb.Any
	// Failure is the last form of it, if that was refused; nil if it wasn't.
	Failure *Failure
}

// Failure is a resource that was refused. Details say why.
type Failure struct {
	Details, Version string
	At               time.Time
	Message          *anypb.Any
}

// Info describes the process for /server_info.
type Info struct {
	Version string
	Started time.Time
	Node    func() *corev3.Node         // as it is now
	Options *adminv3.CommandLineOptions // may be nil
}

// Lifecycle changes the state of the process.
type Lifecycle interface {
	// Drain starts to drain listeners and returns.
	Drain(DrainOptions)
	// SetHealthy makes the state live or draining, for a load balancer's
	// health checks, and changes nothing else.
	SetHealthy(bool)
	// Quit asks the process to end and returns before it has.
	Quit()
}

// DrainOptions are the parameters of /drain_listeners.
type DrainOptions struct {
	// Graceful waits for the drain time before it closes anything.
	Graceful bool
	// InboundOnly leaves listeners alone that aren't inbound.
	InboundOnly bool
	// SkipExit closes connections, never the listeners.
	SkipExit bool
}

// Certificates lists what TLS is made with.
type Certificates interface {
	// Certificates returns the secrets that have come, in the order of names.
	Certificates() []CertificateStatus
}

// CertificateStatus is one secret: a certificate with its issuers, or trust
// anchors, or both.
type CertificateStatus struct {
	Name, Source   string
	Chain, Anchors []*x509.Certificate
}
