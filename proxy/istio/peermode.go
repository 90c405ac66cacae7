// SPDX-License-Identifier: Apache-2.0

package istio

import (
	security "istio.io/api/security/v1beta1"

	"pillion/proxy/istio/source"
)

// peerModes says which workloads take mutual TLS, by the PeerAuthentications: what a
// client has to know of its servers (pilot/pkg/model/authentication.go of Istio).
type peerModes struct {
	root      string
	mesh      security.PeerAuthentication_MutualTLS_Mode            // UNSET: nothing said
	namespace map[string]security.PeerAuthentication_MutualTLS_Mode // those that say something
	workload  map[string][]*security.PeerAuthentication             // by namespace, with a selector
}

// newPeerModes reads the PeerAuthentications; of two for the same the first counts.
func newPeerModes(objs []*source.Object, root string) *peerModes {
	m := &peerModes{
		root:      root,
		namespace: make(map[string]security.PeerAuthentication_MutualTLS_Mode),
		workload:  make(map[string][]*security.PeerAuthentication),
	}
	seen := make(map[string]bool)
	for _, obj := range objs {
		spec, ok := obj.Spec.(*security.PeerAuthentication)
		switch {
		case !ok:
		case len(spec.GetSelector().GetMatchLabels()) > 0:
			if obj.Namespace != root { // there it would be for no workload
				m.workload[obj.Namespace] = append(m.workload[obj.Namespace], spec)
			}
		case seen[obj.Namespace]:
		default:
			seen[obj.Namespace] = true
			mode := spec.GetMtls().GetMode()
			if obj.Namespace == root {
				m.mesh = mode
			} else if mode != security.PeerAuthentication_MutualTLS_UNSET {
				m.namespace[obj.Namespace] = mode
			}
		}
	}
	return m
}

// disablesNamespace: the namespace as a whole takes no mutual TLS.
func (m *peerModes) disablesNamespace(namespace string) bool {
	return m.of(namespace) == security.PeerAuthentication_MutualTLS_DISABLE
}

func (m *peerModes) of(namespace string) security.PeerAuthentication_MutualTLS_Mode {
	if mode, ok := m.namespace[namespace]; ok {
		return mode
	}
	return m.mesh
}

// disables: the workload takes no mutual TLS at a port.
func (m *peerModes) disables(w *workload, port uint32) bool {
	mode := m.of(w.namespace)
	for _, p := range m.workload[w.namespace] {
		if !isSubset(p.Selector.MatchLabels, w.labels) {
			continue
		}
		if own := p.GetMtls().GetMode(); own != security.PeerAuthentication_MutualTLS_UNSET {
			mode = own
		}
		if own := p.PortLevelMtls[port].GetMode(); own != security.PeerAuthentication_MutualTLS_UNSET {
			mode = own
		}
		break
	}
	return mode == security.PeerAuthentication_MutualTLS_DISABLE
}
