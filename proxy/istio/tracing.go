// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	uuidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	mesh "istio.io/api/mesh/v1alpha1"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"pillion/proxy/istio/source"
)

// defaultSampling is the share of traces that a mesh records when nobody says another,
// in percent: istiod's PILOT_TRACE_SAMPLING.
const defaultSampling = 1.0

// listenerClass is what a listener is for, by which Telemetry tells listeners apart. A
// gateway is a client of what it leads to.
type listenerClass uint8

const (
	classOutbound listenerClass = iota
	classInbound
	classGateway
)

// spot is where something was said.
type spot struct {
	obj   *source.Object
	field string
}

// traceSpec is what is in force for the listeners of one direction.
type traceSpec struct {
	last          spot   // the entry that was laid over the others last
	provider      string // its name; empty is none
	named         spot   // where the provider is named
	disabled      bool
	sampling      *float64
	tags          map[string]*telemetry.Tracing_CustomTag
	tagged        spot // where the tags are
	byRequestID   bool
	istioTags     bool
	noPropagation bool
}

// tracing is what connection managers are told of traces. Its facts are those of
// pilot/pkg/model/telemetry.go and pilot/pkg/networking/core/tracing.go.
type tracing struct {
	o     *Options
	rep   *report
	scope *scope
	rules *destinationRules
	made  map[string]*traceProvider // by name, in lower case

	byClass  [classGateway + 1]*hcmv3.HttpConnectionManager_Tracing // nil: no traces
	ids      [classGateway + 1]*hcmv3.RequestIDExtension            // nil: as without tracing
	services []*service                                             // those that spans are sent to
	clusters []*clusterv3.Cluster                                   // where spans are sent that no service has
}

// newTracing works out what is in force: the Telemetry resources, laid over the mesh's
// default provider, or else what the MeshConfig says by itself.
func newTracing(inForce []*source.Object, o *Options, sc *scope, rules *destinationRules, rep *report) *tracing {
	t := &tracing{o: o, rep: rep, scope: sc, rules: rules, made: make(map[string]*traceProvider)}
	client, server, found := mergeTracing(inForce, o)
	if !found {
		if o.MeshConfig == nil || o.mesh().EnableTracing {
			m := t.withoutTelemetry()
			t.byClass = [...]*hcmv3.HttpConnectionManager_Tracing{m, m, m}
		}
		return t
	}
	t.set(classOutbound, client)
	t.set(classInbound, server)
	t.set(classGateway, client)
	return t
}

// mergeTracing lays entries over each other, each for one direction or both. What an
// entry doesn't say stays as it was. found: there is a Telemetry or a default provider.
func mergeTracing(inForce []*source.Object, o *Options) (client, server *traceSpec, found bool) {
	first := traceSpec{byRequestID: true, istioTags: true}
	if names := o.mesh().GetDefaultProviders().GetTracing(); len(names) > 0 {
		found = true
		first.provider, first.named = names[0], spot{o.MeshConfig, "defaultProviders.tracing[0]"}
	}
	client, server = &first, &traceSpec{}
	*server = first
	for _, obj := range inForce {
		for i, e := range obj.Spec.(*telemetry.Telemetry).Tracing {
			found = true
			at := spot{obj, fmt.Sprintf("spec.tracing[%d]", i)}
			mode := e.GetMatch().GetMode()
			if mode != telemetry.WorkloadMode_SERVER {
				client.add(at, e)
			}
			if mode != telemetry.WorkloadMode_CLIENT {
				server.add(at, e)
			}
		}
	}
	return client, server, found
}

// add lays one entry over what holds.
func (s *traceSpec) add(at spot, e *telemetry.Tracing) {
	s.last = at
	if len(e.Providers) > 0 {
		s.provider, s.named = e.Providers[0].GetName(), spot{at.obj, at.field + ".providers[0].name"}
	}
	if e.DisableSpanReporting != nil {
		s.disabled = e.DisableSpanReporting.Value
	}
	if e.CustomTags != nil {
		s.tags, s.tagged = e.CustomTags, spot{at.obj, at.field + ".customTags"}
	}
	if e.RandomSamplingPercentage != nil {
		s.sampling = &e.RandomSamplingPercentage.Value
	}
	if e.UseRequestIdForTraceSampling != nil {
		s.byRequestID = e.UseRequestIdForTraceSampling.Value
	}
	if e.EnableIstioTags != nil {
		s.istioTags = e.EnableIstioTags.Value
	}
	if e.DisableContextPropagation != nil {
		s.noPropagation = e.DisableContextPropagation.Value
	}
}

// set makes what the listeners of a class are told. Without a provider they are told
// nothing, as if spans were not wanted.
func (t *tracing) set(class listenerClass, s *traceSpec) {
	if s.disabled {
		return
	}
	if s.provider == "" {
		if s.last.obj != nil { // istiod says nothing of it
			t.rep.warnf(s.last.obj, s.last.field, "names no provider, and no level above does, nor defaultProviders.tracing of the MeshConfig: no spans are sent")
		}
		return
	}
	p := t.provider(s)
	if p == nil {
		return
	}
	m := &hcmv3.HttpConnectionManager_Tracing{Provider: p.config, NoContextPropagation: s.noPropagation}
	if class == classGateway {
		// A gateway's client has no span of the mesh, so it makes one for either side.
		m.SpawnUpstreamSpan = wrapperspb.Bool(true)
	}
	own := t.proxyTracing()
	switch {
	case p.sampler:
		sample(m, 100) // it decides itself, and has to see all
	case s.sampling != nil:
		sample(m, *s.sampling)
	default:
		sample(m, t.meshSampling())
	}
	m.CustomTags = t.customTags(s)
	switch {
	case p.maxTagLength != 0:
		m.MaxPathTagLength = wrapperspb.UInt32(p.maxTagLength)
	case own.GetMaxPathTagLength() != 0:
		m.MaxPathTagLength = wrapperspb.UInt32(own.GetMaxPathTagLength())
	}
	t.byClass[class] = m
	if !s.byRequestID {
		t.ids[class] = requestID(false)
	}
}

// withoutTelemetry is what listeners are told when no Telemetry says anything. The
// provider is then the bootstrap's, which defaultConfig.tracing is about. Where that names
// none they are told nothing: istiod tells them all the same, by which an Envoy without a
// tracer sends no spans, but marks request IDs and tells upstreams the route's operation.
func (t *tracing) withoutTelemetry() *hcmv3.HttpConnectionManager_Tracing {
	own := t.proxyTracing()
	m := &hcmv3.HttpConnectionManager_Tracing{Provider: t.bootstrapTracer()}
	sample(m, t.meshSampling())
	istioTags := own.GetEnableIstioTags() == nil || own.GetEnableIstioTags().Value
	m.CustomTags = t.customTags(&traceSpec{istioTags: istioTags})
	if n := own.GetMaxPathTagLength(); n != 0 {
		m.MaxPathTagLength = wrapperspb.UInt32(n)
	}
	if m.Provider == nil {
		return nil
	}
	return m
}

// proxyTracing is what the mesh says of tracing for all proxies; it may be nil.
func (t *tracing) proxyTracing() *mesh.Tracing { return t.o.mesh().GetDefaultConfig().GetTracing() }

// meshSampling is the share of traces where no Telemetry says it.
func (t *tracing) meshSampling() float64 {
	const field = "defaultConfig.tracing.sampling"
	switch v := t.proxyTracing().GetSampling(); {
	case v == 0: // not said, as istiod takes it
		return defaultSampling
	case v > 0 && v <= 100:
		return v
	case v > 100:
		t.rep.warnf(t.o.MeshConfig, field, "%v is more than 100 percent: Istio takes it for %v", v, defaultSampling)
	default: // Envoy refuses it
		t.rep.errorf(t.o.MeshConfig, field, "%v isn't a percentage; wants 0 to 100", v)
	}
	return defaultSampling
}

// sample sets who records a trace: whoever asks for it by x-client-trace-id, and of
// all others this share.
func sample(m *hcmv3.HttpConnectionManager_Tracing, percent float64) {
	m.ClientSampling = &typev3.Percent{Value: 100}
	m.RandomSampling = &typev3.Percent{Value: percent}
	m.OverallSampling = &typev3.Percent{Value: 100}
}

// requestID is the extension that makes request IDs. byID lets their bits carry whether
// the request's trace is recorded.
func requestID(byID bool) *hcmv3.RequestIDExtension {
	return &hcmv3.RequestIDExtension{TypedConfig: pack(&uuidv3.UuidRequestIdConfig{
		UseRequestIdForTraceSampling: wrapperspb.Bool(byID),
	})}
}

// apply tells a connection manager.
func (t *tracing) apply(m *hcmv3.HttpConnectionManager, class listenerClass) {
	m.Tracing = t.byClass[class]
	m.RequestIdExtension = t.ids[class]
	if m.RequestIdExtension == nil {
		m.RequestIdExtension = requestID(true)
	}
}

// traceProvider is a collector of spans, ready to be put into connection managers.
type traceProvider struct {
	config       *tracev3.Tracing_Http
	maxTagLength uint32 // 0 is not said
	sampler      bool   // it has a sampler of its own
}
