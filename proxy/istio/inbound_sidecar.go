// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// sidecarIngress adds the ports of the Sidecar in force that are bound to an address of
// this machine: a loopback one or 0.0.0.0, or any with captureMode NONE. Others are for
// captured traffic, and there is none.
func (t *translator) sidecarIngress(add func(*inboundPort, func(error))) {
	obj := t.scope.sidecar
	if obj == nil {
		return
	}
	spec := obj.Spec.(*networking.Sidecar)
	for i, in := range spec.Ingress {
		field := fmt.Sprintf("spec.ingress[%d]", i)
		if in.Tls != nil {
			// istiod passes over it unless a feature flag is on.
			t.rep.errorf(obj, field+".tls", "TLS other than the mesh's own is not supported before a workload; remove it to have what PeerAuthentication says")
			continue
		}
		bind := ingressBind(in)
		if !bind.IsValid() {
			t.rep.unsupportedf(obj, field, "nothing captures traffic to the port; bind it to an address in 127.0.0.0/8, or open it with --inbound")
			continue
		}
		p := &inboundPort{
			listen:   netip.AddrPortFrom(bind, uint16(in.Port.GetNumber())),
			port:     in.Port.GetNumber(),
			protocol: parseProtocol(in.Port.GetProtocol()),
			declared: true,
			pool:     spec.InboundConnectionPool,
		}
		if in.ConnectionPool != nil {
			p.pool = in.ConnectionPool
		}
		if !p.sendTo(in.DefaultEndpoint) {
			t.rep.errorf(obj, field+".defaultEndpoint", "%s: name where the workload listens, such as 127.0.0.1:8080 or unix:///run/app.sock",
				cmp.Or(in.DefaultEndpoint, "nothing says where connections go"))
			continue
		}
		if p.to != 0 && overlapping(p.listen, netip.AddrPortFrom(netip.MustParseAddr(p.app), uint16(p.to))) {
			t.rep.errorf(obj, field+".defaultEndpoint", "%s: the proxy can't listen where the workload does", in.DefaultEndpoint)
			continue
		}
		add(p, func(err error) { t.rep.errorf(obj, field, "%s", err.Error()) })
	}
}

// ingressBind is the address at which an entry is bound; invalid where it isn't.
func ingressBind(in *networking.IstioIngressListener) netip.Addr {
	ip, err := netip.ParseAddr(in.Bind)
	switch {
	case err == nil && (ip.IsLoopback() || ip.IsUnspecified() || in.CaptureMode == networking.CaptureMode_NONE):
		return ip
	case in.Bind == "" && in.CaptureMode == networking.CaptureMode_NONE:
		return netip.IPv4Unspecified()
	}
	return netip.Addr{}
}

// sendTo sets where the workload is by a defaultEndpoint. 0.0.0.0 is the workload's own
// address, which here is the loopback one.
func (p *inboundPort) sendTo(endpoint string) bool {
	if strings.HasPrefix(endpoint, unixPrefix) {
		p.app = endpoint
		return true
	}
	at, err := netip.ParseAddrPort(endpoint)
	if err != nil || at.Port() == 0 {
		return false
	}
	ip := at.Addr()
	if ip.IsUnspecified() {
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if at.Addr().Is6() {
			ip = netip.IPv6Loopback()
		}
	}
	p.app, p.to = ip.String(), uint32(at.Port())
	return true
}
