// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"pillion/proxy/admin"
	"pillion/proxy/tls"
	"pillion/proxy/tls/localca"
)

// Names under which contexts ask for the workload's own certificate and for
// what other workloads' certificates have to lead to, as Istio has them.
const (
	ownCertificate = "default"
	meshRoots      = "ROOTCA"
)

// loadCerts reads the folder of Options.CertsDir; it is kept live by watchCerts.
func (s *Server) loadCerts() error {
	dir := s.o.CertsDir
	if dir == "" {
		return nil
	}
	s.files.Pair(ownCertificate, filepath.Join(dir, localca.ChainFile), filepath.Join(dir, localca.KeyFile), "")
	s.files.Roots(meshRoots, filepath.Join(dir, localca.RootFile), "")
	if err := s.files.Load(); err != nil {
		return fmt.Errorf("--certs: %w\n'proxy certs init DIR --workload NAMESPACE/SERVICE-ACCOUNT' makes a folder with such files", err)
	}
	return nil
}

// watchCerts keeps secrets that are files live until ctx ends.
func (s *Server) watchCerts(ctx context.Context) {
	if err := s.files.Run(ctx); err != nil {
		s.o.Logger.Error("files of certificates are not watched any more; restart the proxy to have changes served", "reason", err)
	}
}

// certView shows the live secrets to /certs.
type certView struct{ secrets *tls.Secrets }

func (v certView) Certificates() []admin.CertificateStatus {
	var out []admin.CertificateStatus
	for _, s := range v.secrets.All() {
		st := s.Status()
		if len(st.Chain)+len(st.Anchors) == 0 {
			continue
		}
		out = append(out, admin.CertificateStatus{Name: st.Name, Source: strings.TrimPrefix(st.Source, "file "), Chain: st.Chain, Anchors: st.Anchors})
	}
	return out
}
