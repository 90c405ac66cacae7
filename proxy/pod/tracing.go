// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"net"
	"strconv"

	mesh "istio.io/api/mesh/v1alpha1"
)

// Zipkin is where a collector of spans is.
type Zipkin struct {
	Host string // a name of DNS or an address
	Port uint16
}

// hostIP is a host that stands for the variable HOST_IP, also where Kubernetes doesn't put
// the value into its place (istio.io/istio/pkg/bootstrap/option).
const hostIP = "$(HOST_IP)"

// tracing reads the tracer that Istio's agent puts into Envoy's bootstrap. istiod names
// another one to connection managers where Telemetry does, and chooses the share of
// requests.
func (r *reader) tracing(p *Pod) *Zipkin {
	t := p.Config.GetTracing()
	if t.GetTracer() == nil {
		return nil
	}
	const instead = "no spans are sent to it; name the collector in meshConfig.extensionProviders, and the provider in Telemetry or in meshConfig.defaultProviders.tracing"
	zipkin, ok := t.GetTracer().(*mesh.Tracing_Zipkin_)
	if !ok {
		r.warn("ProxyConfig: tracing.%s is not supported: %s", tracerName(t), instead)
		return nil
	}
	if mode := t.GetTlsSettings().GetMode(); mode != 0 { // DISABLE
		r.warn("ProxyConfig: tracing.tlsSettings of mode %s is not supported: %s", mode, instead)
		return nil
	}
	return r.zipkin(zipkin.Zipkin.GetAddress())
}

func (r *reader) zipkin(address string) *Zipkin {
	const field = "ProxyConfig: tracing.zipkin.address"
	host, err := hostOf(address)
	if err != nil {
		r.refuse(field, address, err.Error(), "give it as zipkin.istio-system:9411")
		return nil
	}
	_, text, _ := net.SplitHostPort(address) // hostOf has looked at both
	port, _ := strconv.Atoi(text)
	if host == hostIP {
		if host = r.text("HOST_IP", ""); host == "" {
			r.warn("%s=%s: HOST_IP isn't set, which the webhook takes from status.hostIP: no spans are sent", field, address)
			return nil
		}
	}
	return &Zipkin{Host: host, Port: uint16(port)}
}

// tracerName is the field of the tracer that is set.
func tracerName(t *mesh.Tracing) string {
	m := t.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("tracer")); fd != nil {
		return fd.JSONName()
	}
	return "tracer"
}
