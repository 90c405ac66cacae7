// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"time"

	"pillion/proxy/http"
	"pillion/proxy/outlier"
	"pillion/proxy/pool"
	"pillion/proxy/tls"
)

// Discovery tells where a cluster's hosts come from
// (envoy.config.cluster.v3.Cluster.DiscoveryType).
type Discovery uint8

// The types of discovery.
const (
	// Static hosts stand in the configuration.
	Static Discovery = iota
	// EDS hosts come in Config.Endpoints or by Manager.SetEndpoints.
	EDS
	// StrictDNS makes a host of each address that the names resolve to.
	StrictDNS
	// LogicalDNS has one host for its one name; each new connection goes to
	// an address that the name has at that time.
	LogicalDNS
	// OriginalDst makes a host of each address that a request was meant for.
	OriginalDst
)

// String returns Envoy's name of the type.
func (d Discovery) String() string {
	return [...]string{"STATIC", "EDS", "STRICT_DNS", "LOGICAL_DNS", "ORIGINAL_DST"}[d]
}

// Policy is the way a host is chosen (envoy.config.cluster.v3.Cluster.LbPolicy).
type Policy uint8

// The policies.
const (
	RoundRobin Policy = iota
	LeastRequest
	Random
	RingHash
	Maglev
)

// String returns Envoy's name of the policy.
func (p Policy) String() string {
	return [...]string{"ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV"}[p]
}

// Config describes one cluster. It is immutable once it was given to
// Manager.Apply. It holds no state of the run.
type Config struct {
	// Name is unique among the clusters of a Manager.
	Name string
	// StatName takes the place of Name in metrics when it is not empty.
	StatName string
	// Hash stands for the whole content: Apply leaves a cluster alone if it
	// is the same. The zero value is equal to nothing.
	Hash [16]byte

	Discovery Discovery
	// Endpoints are the hosts (STATIC, EDS), or the names to resolve
	// (STRICT_DNS, LOGICAL_DNS). With EDS, nil keeps what SetEndpoints gave.
	Endpoints []Endpoint
	DNS       *DNS          // for STRICT_DNS and LOGICAL_DNS
	Original  *OriginalLB   // for ORIGINAL_DST; nil for the defaults
	Balance   Balance       // how hosts are chosen
	Breakers  Breakers      // limits on requests and retries
	Conn      pool.Settings // limits on connections, and their options
	Outlier   *outlier.Settings
	// TLS is that of hosts which no Endpoint describes (ORIGINAL_DST).
	TLS *tls.Client

	// ServiceHost, ServiceName and ServiceNamespace are the service that the
	// cluster stands for, as metrics name it (Istio's cluster metadata).
	ServiceHost, ServiceName, ServiceNamespace string
	// External says that the hosts are outside of the mesh, NoPeerMetadata that they
	// aren't to hear which workload calls (filter_metadata.istio: external, disable_mx).
	External, NoPeerMetadata bool
	// PeerProtocol is the name in ALPN by which both ends of a raw connection agree
	// to tell each other who they are before the first byte, empty if they never do;
	// PeerLabels are further labels of the workload that we tell then.
	PeerProtocol string
	PeerLabels   []string
	// EDSServiceName is what the server calls the hosts of an EDS cluster,
	// empty if that is Name.
	EDSServiceName string
	// Reference is the path of the Istio resource that shaped the cluster,
	// empty if there is none.
	Reference string
	// AddedViaAPI is reported by the admin endpoint.
	AddedViaAPI bool
}

// secure returns a TLS context of the cluster, nil if it has none. All of them count
// in one place.
func (cfg *Config) secure() *tls.Client {
	if cfg.TLS != nil {
		return cfg.TLS
	}
	for i := range cfg.Endpoints {
		if t := cfg.Endpoints[i].TLS; t != nil {
			return t
		}
	}
	return nil
}

// Balance is how a host is chosen.
type Balance struct {
	Policy Policy
	// ChoiceCount is the number of hosts that LEAST_REQUEST compares; 2 if 0.
	ChoiceCount uint32
	// ActiveRequestBias is LEAST_REQUEST's exponent on active requests when
	// weights differ; Envoy's default is 1.
	ActiveRequestBias float64
	// PanicThreshold in percent: with fewer healthy hosts than that, all are
	// used. 0 turns it off, Envoy's default is 50.
	PanicThreshold float64
	// OverprovisioningFactor in percent; 140 if 0
	// (envoy.config.endpoint.v3.ClusterLoadAssignment.Policy).
	OverprovisioningFactor uint32
	// LocalityWeighted shares the load between localities by their weights.
	LocalityWeighted bool
	// MinRingSize and MaxRingSize bound RING_HASH's table; 1024 and 8 Mi if 0.
	MinRingSize, MaxRingSize uint64
	// TableSize is MAGLEV's, a prime; 65537 if 0.
	TableSize uint64
	// SlowStart brings new hosts in slowly; nil if they get their full share
	// at once.
	SlowStart *SlowStart
}

// SlowStart is the weight of hosts in their first time
// (envoy.config.cluster.v3.Cluster.SlowStartConfig).
type SlowStart struct {
	Window           time.Duration
	Aggression       float64 // 1 is linear
	MinWeightPercent float64
}

// Breakers are the limits of the DEFAULT routing priority that don't concern
// connections. pool.NoLimit turns one off.
type Breakers struct {
	MaxRequests uint32
	MaxRetries  uint32
	// RetryBudget takes the place of MaxRetries when it is not nil.
	RetryBudget *RetryBudget
	// TrackRemaining reports what is left of each limit as a metric.
	TrackRemaining bool
}

// RetryBudget allows retries as a share of the requests in progress.
type RetryBudget struct {
	Percent        float64
	MinConcurrency uint32
}

// DNS is how names are resolved.
type DNS struct {
	Family Family
	// Refresh is the time between two look-ups, FailureBase and FailureMax
	// bound that after a failed one.
	Refresh, FailureBase, FailureMax time.Duration
	// Jitter is the most that is added to each of those, at random.
	Jitter time.Duration
}

// Family selects IPv4 and IPv6 addresses
// (envoy.config.cluster.v3.Cluster.DnsLookupFamily).
type Family uint8

// The families.
const (
	FamilyAuto        Family = iota // IPv6 addresses; IPv4 if there are none
	FamilyV4Only                    //
	FamilyV6Only                    //
	FamilyV4Preferred               // IPv4 addresses; IPv6 if there are none
	FamilyAll                       // both
)

// OriginalLB are the settings of an ORIGINAL_DST cluster.
type OriginalLB struct {
	// Port takes the place of the destination's port when it is not 0.
	Port uint16
	// Cleanup is how long a host without requests is kept; 0 for the default.
	Cleanup time.Duration
}

// Health is what configuration says of an endpoint
// (envoy.config.core.v3.HealthStatus).
type Health uint8

// The states. Hosts that are unhealthy, draining or timed out get no requests;
// degraded ones count as healthy.
const (
	HealthUnknown Health = iota
	HealthHealthy
	HealthUnhealthy
	HealthDraining
	HealthTimeout
	HealthDegraded
)

// String returns Envoy's name of the state.
func (h Health) String() string {
	return [...]string{"UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"}[h]
}

// Endpoint is one configured host or name.
type Endpoint struct {
	// Address is ip:port, name:port for DNS, or the path of a Unix socket
	// (beginning with / or @).
	Address string
	// Hostname is a name that comes with an address; for display.
	Hostname string
	// Peer is the workload behind the address; its Service fields are filled
	// in from the cluster.
	Peer     http.Peer
	Locality *Locality // nil for none; shared between endpoints
	Weight   uint32    // 1 if 0
	Priority uint8
	Health   Health
	// TLS secures the connections to the endpoint; nil leaves them plain.
	TLS *tls.Client
	// Unusable says why no request can be sent to the endpoint although it is
	// well; empty if it can.
	Unusable string
}

// Locality is a place with the weight of its endpoints.
type Locality struct {
	Region, Zone, SubZone string
	// Weight is the locality's share for Balance.LocalityWeighted; 0 gets no
	// load.
	Weight uint32
}
