// SPDX-License-Identifier: Apache-2.0

package live

import "time"

// Types of resources.
const (
	ClusterType   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	SecretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ExtensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	NameTableType = "type.googleapis.com/istio.networking.nds.v1.NameTable"
)

// Held is a resource as it was received. Immutable.
type Held struct {
	// Body is the serialized message; nil of a secret, whose key stays in proxy/tls.
	Body []byte
	// Version is the resource's own, or else that of the response it came in.
	Version string
	// Updated is when its content came, which later responses repeat.
	Updated time.Time
}

// Refusal is a resource that is not served, and why.
type Refusal struct {
	Held
	// Reason begins with the field, if there is one to name.
	Reason string
}

// Resource is all that is known of one name of a type, for /config_dump and
// /ready. It is a copy; its bodies are shared, and must not be changed.
type Resource struct {
	Name string
	// Active is what is served, nil if nothing is.
	Active *Held
	// Warming is accepted, and is to take the place of Active when what it needs is
	// there; nil if nothing waits. Waits says for what, Since from when on.
	Warming *Held
	Waits   string
	Since   time.Time
	// Draining says that the server has removed what is served, which is kept
	// as long as something still names it.
	Draining bool
	// Refused is the last one that wasn't accepted, nil if the last one was.
	Refused *Refusal
}

// TypeStatus is the state of one type of resources.
type TypeStatus struct {
	TypeURL string
	// Version is that of the last response, Updated when it came; zero before the
	// first one.
	Version string
	Updated time.Time
	// Resources are sorted by name.
	Resources []Resource
}
