// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	mesh "istio.io/api/mesh/v1alpha1"

	"pillion/proxy/stats"
)

// Role is what the proxy is in the mesh.
type Role string

// The roles. A waypoint isn't among them.
const (
	Sidecar Role = "sidecar"
	Router  Role = "router"
)

// Input is what the container is given.
type Input struct {
	Role    Role
	Environ []string // NAME=value
	// Root is put before the path of every file; empty is "/". The injected
	// arguments and variables have relative paths, which begin there.
	Root string

	// Flags of the injected command; zero values where they aren't given.
	Domain         string // of DNS, as $(POD_NAMESPACE).svc.cluster.local
	MeshConfigFile string
	ServiceCluster string
	Concurrency    int // before ProxyConfig's
	OutlierLogPath string

	// Interfaces returns the machine's; nil asks the system.
	Interfaces func() ([]Interface, error)
	// Version is that of this program.
	Version string
}

// Interface is a network interface that is up, with its addresses.
type Interface struct {
	Name  string
	Addrs []netip.Addr
}

// Pod is all that the pod tells the container, checked. It is immutable.
type Pod struct {
	Role                                      Role
	Name, Namespace, ServiceAccount, Workload string
	Labels, Annotations                       map[string]string
	// IPs are the pod's addresses, its own first.
	IPs         []string
	Domain      string
	TrustDomain string
	ClusterID   string

	// Config is the merged ProxyConfig.
	Config    *mesh.ProxyConfig
	Discovery Discovery
	Identity  Identity
	Node      *corev3.Node

	Ports Ports
	Drain DrainSettings
	// Workers is how many threads may run Go code at a time; 0 leaves it to the
	// runtime, which heeds GOMAXPROCS.
	Workers int
	// NameTable is set where the pod's look-ups are captured: the proxy isn't
	// ready before it has the table to answer them by.
	NameTable bool

	Probes Probes
	// Scrape says where the application's metrics are; nil: they aren't merged.
	Scrape *Scrape
	// Stats says which of the proxy's statistics there are, and how they are named.
	Stats stats.View
	// MergeStats has the proxy's own metrics on the status port too.
	MergeStats bool

	// Zipkin gets the spans of requests for which the control plane names no collector;
	// nil: nobody does.
	Zipkin *Zipkin

	// Warnings are for the log: what was asked for and isn't done.
	Warnings []string
}

// Ports are those that the proxy itself opens. 0 leaves one out.
type Ports struct {
	Admin   int // on loopback
	Status  int // 15020
	Probe   int // 15021
	Metrics int // 15090
	// LocalMetrics opens metrics to loopback alone.
	LocalMetrics bool
}

// DrainSettings say how the proxy ends.
type DrainSettings struct {
	// Termination is the time between the signal and the end.
	Termination time.Duration
	// ExitAtZero waits instead for the last connection, for Minimum at least.
	ExitAtZero bool
	Minimum    time.Duration
	// Duration is how long connections may take to end where nothing else ends
	// them (Envoy's --drain-time-s).
	Duration time.Duration
}

// Read reads arguments, environment and files. Everything that can't be used is
// in the error, each with its place, reason and remedy (ValueError).
func Read(in Input) (*Pod, error) {
	v := newValues(in.Environ)
	r := &reader{values: v, in: in}
	p := &Pod{Role: in.Role}
	p.Labels, p.Annotations = v.info(r.path("etc/istio/pod/labels")), v.info(r.path("etc/istio/pod/annotations"))
	p.Config = v.proxyConfig(r.path(orDefault(in.MeshConfigFile, "etc/istio/config/mesh")), p.Annotations)
	v.metadata = p.Config.GetProxyMetadata()
	r.who(p)
	r.ports(p)
	r.drain(p)
	r.workers(p)
	p.NameTable = v.flag("ISTIO_META_DNS_CAPTURE", false) || v.flag("ISTIO_META_ENABLE_DNS_SERVER", false)
	p.Discovery, p.Identity = r.discovery(p), r.identity(p)
	p.Probes = r.probes(p)
	p.Scrape = r.scrape(p)
	p.MergeStats = v.flag("PILOT_AGENT_MERGE_ENVOY_STATS", true)
	p.Stats = r.statsView(p)
	p.Zipkin = r.tracing(p)
	p.Node = r.node(p)
	r.unsupported()
	p.Warnings = v.warnings
	if err := v.err(); err != nil {
		return nil, err
	}
	return p, nil
}

// reader fills a Pod. It is owned by Read.
type reader struct {
	*values
	in Input
}

// path is where a file is: relative or not, it lies below the root.
func (r *reader) path(name string) string { return filepath.Join(orDefault(r.in.Root, "/"), name) }

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// who reads whom the proxy stands beside.
func (r *reader) who(p *Pod) {
	need := func(name, why string) string {
		s := r.text(name, "")
		if s == "" {
			r.refuse(name, "", "isn't set", why)
		} else if strings.ContainsAny(s, "~ \t\r\n") {
			r.refuse(name, s, "is no name of Kubernetes", why)
		}
		return s
	}
	const downward = "the webhook takes it from the pod by fieldRef; a control plane serves no proxy without it"
	p.Name, p.Namespace = need("POD_NAME", downward), need("POD_NAMESPACE", downward)
	p.ServiceAccount = r.text("SERVICE_ACCOUNT", "")
	if p.ServiceAccount == "" {
		p.ServiceAccount = "default"
		r.warn("SERVICE_ACCOUNT isn't set: the service account is taken to be %q", p.ServiceAccount)
	}
	p.Workload = r.text("ISTIO_META_WORKLOAD_NAME", "")
	p.ClusterID = r.text("ISTIO_META_CLUSTER_ID", "")
	p.TrustDomain = r.text("TRUST_DOMAIN", "cluster.local")
	p.Domain = orDefault(r.in.Domain, p.Namespace+".svc.cluster.local")
	p.IPs = r.addresses(p)
}

// addresses are INSTANCE_IP and those of the interfaces, but for excluded ones.
func (r *reader) addresses(p *Pod) []string {
	var out []string
	if s := r.text("INSTANCE_IP", ""); s != "" {
		a, err := netip.ParseAddr(s)
		if err != nil {
			r.refuse("INSTANCE_IP", s, "is no address", "the webhook takes it from status.podIP; leave it out for those of the interfaces")
			return nil
		}
		out = append(out, a.Unmap().String())
	}
	excluded := map[string]bool{}
	for name := range strings.SplitSeq(p.Annotations[annotationExcludeInterfaces], ",") {
		excluded[strings.TrimSpace(name)] = true
	}
	list := r.in.Interfaces
	if list == nil {
		list = systemInterfaces
	}
	all, err := list()
	if err != nil {
		r.warn("the addresses of the network interfaces can't be read: %v", err)
	}
	found := false
	for _, i := range all {
		for _, a := range i.Addrs {
			if a = a.Unmap(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsUnspecified() || !a.IsValid() {
				continue
			}
			found = true
			if s := a.String(); !excluded[i.Name] && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	if !found {
		for _, s := range []string{"127.0.0.1", "::1"} {
			if !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	if len(out) == 0 {
		r.refuse("annotation "+annotationExcludeInterfaces, p.Annotations[annotationExcludeInterfaces], "leaves the pod no address", "set INSTANCE_IP, or exclude less")
	}
	return out
}

func (r *reader) ports(p *Pod) {
	check := func(field string, n int32, zero bool) int {
		if n < 0 || n > 65535 || n == 0 && !zero {
			r.refuse("ProxyConfig: "+field, strconv.Itoa(int(n)), "is not a port", "correct it in meshConfig.defaultConfig or in the annotation "+annotationProxyConfig)
		}
		return int(n)
	}
	p.Ports = Ports{
		Admin:        check("proxyAdminPort", p.Config.GetProxyAdminPort(), false),
		Status:       check("statusPort", p.Config.GetStatusPort(), true),
		Probe:        r.portNumber("ENVOY_STATUS_PORT", 15021, false),
		Metrics:      r.portNumber("ENVOY_PROMETHEUS_PORT", 15090, false),
		LocalMetrics: r.flag("METRICS_LOCALHOST_ACCESS_ONLY", false),
	}
	taken := map[int]string{}
	for _, port := range []struct {
		name string
		n    int
	}{{"proxyAdminPort", p.Ports.Admin}, {"statusPort", p.Ports.Status}, {"ENVOY_STATUS_PORT", p.Ports.Probe}, {"ENVOY_PROMETHEUS_PORT", p.Ports.Metrics}} {
		if other := taken[port.n]; other != "" && port.n != 0 {
			r.refuse(port.name, strconv.Itoa(port.n), "is the port of "+other+" too", "give each its own")
		}
		taken[port.n] = port.name
	}
	for _, name := range []string{"ENVOY_SECURE_METRICS_PORT", "ENVOY_SECURE_MERGED_METRICS_PORT"} {
		if n := r.portNumber(name, 0, true); n != 0 {
			r.warn("%s=%d: metrics aren't served over mutual TLS; the port stays closed", name, n)
		}
	}
}

func (r *reader) drain(p *Pod) {
	p.Drain = DrainSettings{
		Termination: p.Config.GetTerminationDrainDuration().AsDuration(),
		Duration:    p.Config.GetDrainDuration().AsDuration(),
		ExitAtZero:  r.flag("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", false),
		Minimum:     r.duration("MINIMUM_DRAIN_DURATION", 5*time.Second),
	}
	for field, d := range map[string]time.Duration{"terminationDrainDuration": p.Drain.Termination, "drainDuration": p.Drain.Duration} {
		if d < 0 {
			r.refuse("ProxyConfig: "+field, d.String(), "is below 0", "give a time such as 5s")
		}
	}
}

// workers chooses as Istio's agent does: what is configured goes before the
// limit of the container, and 0 is every processor.
func (r *reader) workers(p *Pod) {
	limit := r.number("ISTIO_CPU_LIMIT", 0)
	c := p.Config.GetConcurrency()
	switch {
	case r.in.Concurrency > 0:
		p.Workers = r.in.Concurrency
		r.warn("--concurrency=%d: set concurrency of ProxyConfig instead", r.in.Concurrency)
	case c != nil && c.GetValue() > 0:
		p.Workers = int(c.GetValue())
	case c != nil && c.GetValue() < 0:
		r.refuse("ProxyConfig: concurrency", strconv.Itoa(int(c.GetValue())), "is below 0", "give the number of threads, or leave it out for the container's limit")
	case c == nil:
		p.Workers = limit
	}
}

// unsupported names what was asked for and isn't there. Docs: docs/pod.md.
func (r *reader) unsupported() {
	for _, u := range []struct{ name, what string }{
		{"ISTIO_BOOTSTRAP_OVERRIDE", "there is no Envoy bootstrap to override"},
		{"COMPLIANCE_POLICY", "build and run the FIPS flavour instead (make fips)"},
	} {
		if s := r.text(u.name, ""); s != "" {
			r.warn("%s=%s is not heeded: %s", u.name, shortened(s), u.what)
		}
	}
	for _, u := range []struct{ name, what string }{
		{"PROXY_CONFIG_XDS_AGENT", "ProxyConfig isn't asked for over xDS"},
		{"DISABLE_ENVOY", "there is no agent without a proxy"},
		{"ISTIO_META_ENABLE_SELF_DISCOVERY", "there is no local_cluster"},
	} {
		if r.flag(u.name, false) {
			r.warn("%s=true is not heeded: %s", u.name, u.what)
		}
	}
}

// sortedKeys returns the keys in order.
func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
