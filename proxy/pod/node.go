// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	mesh "istio.io/api/mesh/v1alpha1"
)

// IstioVersion is what istiod is told of the proxy's version. istiod keeps back
// from older proxies settings that their Envoy would refuse; what it sends from
// here on differs in tracing alone (no_context_propagation, 1.30; formatters in
// tags, 1.29) and in a filter-state key of waypoints (1.29.2). Each istiod of
// 1.30 and later so sends one and the same form, the one that is tested. A pod
// that needs an older one sets ISTIO_META_ISTIO_VERSION.
const IstioVersion = "1.30.0"

// Labels that say where the workload is; the second is the older one.
var localityLabels = []string{"topology.istio.io/locality", "istio-locality"}

// hashLabel tells the pods of one ReplicaSet from those of the next. Nothing
// may be selected by it.
const hashLabel = "pod-template-hash"

// node is the proxy as istiod knows it: its parser is in
// istio.io/istio/pkg/model (NodeMetadata), and what Istio's agent says in
// istio.io/istio/pkg/bootstrap (GetNodeMetaData).
func (r *reader) node(p *Pod) *corev3.Node {
	meta := r.metadata(p)
	fields, err := structpb.NewStruct(meta)
	if err != nil {
		r.refuse("the node's metadata", "", err.Error(), "correct the ISTIO_META variables")
	}
	ip := "127.0.0.1"
	if len(p.IPs) > 0 {
		ip = p.IPs[0]
	}
	n := &corev3.Node{
		Id:                   string(p.Role) + "~" + ip + "~" + p.Name + "." + p.Namespace + "~" + p.Domain,
		Cluster:              serviceCluster(p, r.in.ServiceCluster),
		Metadata:             fields,
		UserAgentName:        "pillion",
		UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: buildVersion(r.in.Version)},
	}
	for _, label := range localityLabels {
		if l := p.Labels[label]; l != "" {
			n.Locality = locality(l)
			break
		}
	}
	return n
}

// metadata is the map of the node's metadata, as JSON has it.
func (r *reader) metadata(p *Pod) map[string]any {
	m := map[string]any{}
	for name, s := range r.prefixed("ISTIO_META_") {
		m[name] = s
	}
	static := r.jsonMetadata(m)
	r.podPorts(m)
	text := func(name, s string) {
		if s != "" {
			m[name] = s
		}
	}
	text("NAME", p.Name)
	text("NAMESPACE", p.Namespace)
	text("SERVICE_ACCOUNT", p.ServiceAccount)
	text("DNS_PROXY_ADDR", r.text("DNS_PROXY_ADDR", ""))
	text("INSTANCE_IPS", strings.Join(p.IPs, ","))
	text("OUTLIER_LOG_PATH", r.in.OutlierLogPath)
	text("WORKLOAD_IDENTITY_SOCKET_FILE", r.text("WORKLOAD_IDENTITY_SOCKET_FILE", "socket"))
	if _, ok := m["ISTIO_VERSION"]; !ok {
		m["ISTIO_VERSION"] = IstioVersion
	}
	m["ENVOY_STATUS_PORT"], m["ENVOY_PROMETHEUS_PORT"] = p.Ports.Probe, p.Ports.Metrics
	if p.Drain.ExitAtZero {
		m["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] = "true"
	}
	r.discoveryMetadata(m)
	if p.Config.GetControlPlaneAuthPolicy() == mesh.AuthenticationPolicy_MUTUAL_TLS {
		if host, err := hostOf(p.Config.GetDiscoveryAddress()); err == nil {
			m["PILOT_SAN"] = []any{r.serverName(host)}
		}
	}
	labels := maps.Clone(static)
	if labels == nil {
		labels = map[string]any{}
	}
	for k, s := range p.Labels {
		if k != hashLabel {
			labels[k] = s
		}
	}
	for _, label := range localityLabels {
		if l := p.Labels[label]; l != "" {
			labels["istio-locality"] = slashes(l) // where istiod reads it
			break
		}
	}
	if len(labels) > 0 {
		m["LABELS"] = labels
	}
	if len(p.Annotations) > 0 {
		annotations := map[string]any{}
		for k, s := range p.Annotations {
			annotations[k] = s
		}
		m["ANNOTATIONS"] = annotations
	}
	if pc := proxyConfigObject(p.Config); pc != nil {
		m["PROXY_CONFIG"] = pc
	}
	return m
}

// discoveryMetadata says whether the proxy asks for other workloads' metadata.
// It doesn't; istiod is told so where the pod doesn't say otherwise.
func (r *reader) discoveryMetadata(m map[string]any) {
	if r.flag("PEER_METADATA_DISCOVERY", false) {
		r.warn("PEER_METADATA_DISCOVERY=true is not heeded: peers are known by what they say of themselves")
	}
	m["METADATA_DISCOVERY"] = "false"
	for _, name := range []string{"DNS_CAPTURE", "DNS_AUTO_ALLOCATE", "ENABLE_HBONE", "DISABLE_HBONE_SEND",
		"INBOUND_LISTENER_EXACT_BALANCE", "OUTBOUND_LISTENER_EXACT_BALANCE", "ENABLE_SELF_DISCOVERY"} {
		s, ok := m[name].(string)
		if !ok {
			continue
		}
		// istiod refuses a node with one that isn't a boolean; without a value it is
		// as if it weren't there.
		if s == "" {
			delete(m, name)
			continue
		}
		r.flag("ISTIO_META_"+name, false)
		if b, err := strconv.ParseBool(s); err == nil {
			m[name] = strconv.FormatBool(b)
		}
	}
	if m["ENABLE_HBONE"] == "true" {
		r.warn("ISTIO_META_ENABLE_HBONE=true is not heeded: tunnels over HBONE aren't served")
		delete(m, "ENABLE_HBONE")
	}
}

// jsonMetadata merges ISTIO_METAJSON_*: each is an object of keys, whatever the
// rest of its name; ISTIO_METAJSON_LABELS alone is the workload's labels, which
// are returned.
func (r *reader) jsonMetadata(m map[string]any) (static map[string]any) {
	all := r.prefixed("ISTIO_METAJSON_")
	for _, name := range sortedKeys(all) {
		variable := "ISTIO_METAJSON_" + name
		var object map[string]any
		if err := json.Unmarshal([]byte(all[name]), &object); err != nil {
			r.refuse(variable, all[name], "is no JSON object", `write it as {"key":"value"}`)
			continue
		}
		if name != "LABELS" {
			maps.Copy(m, object)
			continue
		}
		for k, s := range object {
			if _, ok := s.(string); !ok {
				r.refuse(variable, all[name], "has the label "+strconv.Quote(k)+" that is no text", `write it as {"key":"value"}`)
				return nil
			}
		}
		static = object
		m["STATIC_LABELS"] = maps.Clone(object)
	}
	return static
}

// podPorts checks the ports of the pod's containers: istiod refuses the node if
// it can't read them.
func (r *reader) podPorts(m map[string]any) {
	s, ok := m["POD_PORTS"].(string)
	if !ok {
		return
	}
	if strings.TrimSpace(s) == "" {
		delete(m, "POD_PORTS")
		return
	}
	type port struct {
		Name          string `json:"name,omitempty"`
		ContainerPort int    `json:"containerPort"`
		Protocol      string `json:"protocol"`
	}
	var ports []port
	if err := json.Unmarshal([]byte(s), &ports); err != nil {
		r.refuse("ISTIO_META_POD_PORTS", s, "is no JSON list of ports", `write it as [{"name":"http","containerPort":80,"protocol":"TCP"}]`)
		return
	}
	for _, p := range ports {
		if p.ContainerPort < 1 || p.ContainerPort > 65535 {
			r.refuse("ISTIO_META_POD_PORTS", s, "has a containerPort that is no port", "give 1 to 65535")
			return
		}
	}
	if text, err := json.Marshal(ports); err == nil {
		m["POD_PORTS"] = string(text)
	}
}

// proxyConfigObject is the merged ProxyConfig as istiod reads it.
func proxyConfigObject(pc *mesh.ProxyConfig) map[string]any {
	text, err := protojson.Marshal(pc)
	if err != nil {
		return nil
	}
	var out map[string]any
	if json.Unmarshal(text, &out) != nil {
		return nil
	}
	return out
}

// serviceCluster is the name of the workload in traces and in the header
// x-envoy-downstream-service-cluster.
func serviceCluster(p *Pod, flag string) string {
	named := ""
	switch c := p.Config.GetClusterName().(type) {
	case *mesh.ProxyConfig_ServiceCluster:
		if named = c.ServiceCluster; named == "" {
			named = flag
		}
	case *mesh.ProxyConfig_TracingServiceName_:
		switch c.TracingServiceName {
		case mesh.ProxyConfig_CANONICAL_NAME_ONLY:
			named = p.CanonicalName()
		case mesh.ProxyConfig_CANONICAL_NAME_AND_NAMESPACE:
			return p.CanonicalName() + "." + p.Namespace
		}
	}
	if named != "" && named != defaultServiceCluster {
		return named
	}
	for _, label := range []string{"app", "app.kubernetes.io/name", "service.istio.io/canonical-name"} {
		if app := p.Labels[label]; app != "" {
			return app + "." + p.Namespace
		}
	}
	return orDefault(p.Workload, defaultServiceCluster) + "." + p.Namespace
}

// CanonicalName is the workload's canonical service.
func (p *Pod) CanonicalName() string {
	for _, label := range []string{"service.istio.io/canonical-name", "app.kubernetes.io/name", "app"} {
		if name := p.Labels[label]; name != "" {
			return name
		}
	}
	return orDefault(p.Workload, defaultServiceCluster)
}

// slashes writes a locality with the separators that labels can't hold.
func slashes(l string) string {
	if strings.Contains(l, "/") {
		return l
	}
	return strings.ReplaceAll(l, ".", "/")
}

func locality(label string) *corev3.Locality {
	parts := append(strings.SplitN(slashes(label), "/", 4), "", "", "")
	return &corev3.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
}
