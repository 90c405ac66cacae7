// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"pillion/proxy/config"
)

// routeTaker is the Sink as a taker of route configurations.
type routeTaker Sink

// take implements taker. The routes are compiled for each list of filters that they are
// served under; what one of them can't do refuses the whole.
func (t *routeTaker) take(e *entry[struct{}], body []byte) error {
	s := (*Sink)(t)
	name, err := nameOf(body)
	if err != nil {
		return err
	}
	if name != e.name {
		return fmt.Errorf("name: the resource itself says %q", name)
	}
	places := s.compiler.Places(e.name)
	if len(places) == 0 {
		b, err := s.compiler.Table(nil, body)
		if err == nil {
			s.warn(s.routes.word, e.name, b.Warnings)
		}
		return err
	}
	built := make([]*config.Built, 0, len(places))
	for _, p := range places {
		b, err := s.compiler.Table(p, body)
		if err != nil {
			return err
		}
		built = append(built, b)
	}
	s.warn(s.routes.word, e.name, built[0].Warnings)
	s.pending.tables = append(s.pending.tables, built...)
	return nil
}

// drop implements taker. Listeners that read the routes go on with them: istiod
// never takes away what is asked for, it sends it empty.
func (t *routeTaker) drop(e *entry[struct{}]) { delete((*Sink)(t).routes.all, e.name) }

// commitTables publishes what was compiled of routes.
func (s *Sink) commitTables() {
	for _, b := range s.pending.tables {
		b.Publish()
	}
	s.pending.tables = nil
}

// secretTaker is the Sink as a taker of secrets.
type secretTaker Sink

// take implements taker. Only what was asked for is taken: the workload's own
// certificate and the mesh's anchors are not the control plane's to replace.
func (t *secretTaker) take(e *entry[struct{}], body []byte) error {
	s := (*Sink)(t)
	in := &tlsv3.Secret{}
	if err := decode(body, in, e.name, in.GetName); err != nil {
		return err
	}
	if !servedByADS(e.name) {
		return fmt.Errorf("name: it was not asked for")
	}
	return config.ApplySecret(s.o.Env.Secrets, in, "", "the control plane")
}

// drop implements taker. The secret serves on.
func (t *secretTaker) drop(e *entry[struct{}]) { delete((*Sink)(t).secrets.all, e.name) }

// servedByADS reports whether a secret comes from the control plane. Those of Istio's
// agent (default, ROOTCA), of files (file-cert:, file-root:) and of a server of its own
// (sds://) do not, and invalid:// is never answered (Istio: pkg/model/credentials).
func servedByADS(name string) bool {
	for _, p := range []string{"kubernetes://", "kubernetes-gateway://", "configmap://"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// served returns those of the secrets that come from the control plane.
func served(names []string) (out []string) {
	for _, n := range names {
		if servedByADS(n) {
			out = append(out, n)
		}
	}
	return out
}
