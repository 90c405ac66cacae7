// SPDX-License-Identifier: Apache-2.0

package istio

import (
	security "istio.io/api/security/v1beta1"

	"pillion/proxy/istio/source"
)

type mtlsMode = security.PeerAuthentication_MutualTLS_Mode

const (
	mtlsUnset      = security.PeerAuthentication_MutualTLS_UNSET
	mtlsDisable    = security.PeerAuthentication_MutualTLS_DISABLE
	mtlsPermissive = security.PeerAuthentication_MutualTLS_PERMISSIVE
	mtlsStrict     = security.PeerAuthentication_MutualTLS_STRICT
)

// inboundModes says how a workload takes connections.
type inboundModes struct {
	mode  mtlsMode
	ports map[uint32]mtlsMode // of ports of the workload that have a mode of their own
}

// of is the mode of a port of the workload.
func (m *inboundModes) of(port uint32) mtlsMode {
	if mode, ok := m.ports[port]; ok {
		return mode
	}
	return m.mode
}

// inboundModes lays the PeerAuthentications in force over each other: the mesh's, the
// namespace's, the workload's, each where it says something; of two at one level the
// first counts, in a cluster the oldest (ComposePeerAuthentication of Istio).
func (p *policies) inboundModes(w protected) *inboundModes {
	var level [3]*source.Object // mesh, namespace, workload
	for _, obj := range p.peer {
		labels := obj.Spec.(*security.PeerAuthentication).GetSelector().GetMatchLabels()
		root := obj.Namespace == p.o.RootNamespace
		i := 1
		switch {
		case root && len(labels) > 0:
			p.rep.warnf(obj, "spec.selector", "a selector has no effect in the root namespace: the resource is ignored; put it into the workload's namespace")
			continue
		case root:
			i = 0
		case obj.Namespace != w.namespace:
			continue
		case len(labels) > 0:
			if !isSubset(labels, w.labels) {
				continue
			}
			i = 2
		}
		if first := level[i]; first != nil {
			p.rep.warnf(obj, "", "is ignored: %s is for the same workload and came first", place(first))
			continue
		}
		level[i] = obj
	}
	m := &inboundModes{mode: mtlsPermissive}
	for _, obj := range level {
		if obj == nil {
			continue
		}
		if mode := obj.Spec.(*security.PeerAuthentication).GetMtls().GetMode(); mode != mtlsUnset {
			m.mode = mode
		}
	}
	if level[2] != nil {
		m.ports = make(map[uint32]mtlsMode)
		for port, own := range level[2].Spec.(*security.PeerAuthentication).PortLevelMtls {
			m.ports[port] = m.mode
			if mode := own.GetMode(); mode != mtlsUnset {
				m.ports[port] = mode
			}
		}
	}
	return m
}
