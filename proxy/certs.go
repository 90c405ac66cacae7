// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

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

// loadCerts reads the files of Options.CertsDir or Identity.Files; they are kept
// live by watchCerts.
func (s *Server) loadCerts() error {
	f, dir := s.o.Identity.Files, s.o.CertsDir
	if dir != "" {
		f = CertFiles{Chain: filepath.Join(dir, localca.ChainFile), Key: filepath.Join(dir, localca.KeyFile), Root: filepath.Join(dir, localca.RootFile)}
	}
	if f.Chain == "" {
		return nil
	}
	s.files.Pair(ownCertificate, f.Chain, f.Key, "")
	s.files.Roots(meshRoots, f.Root, "")
	err := s.files.Load()
	if err != nil && dir != "" {
		return fmt.Errorf("--certs: %w\n'proxy certs init DIR --workload NAMESPACE/SERVICE-ACCOUNT' makes a folder with such files", err)
	}
	return err
}

// watchCerts keeps secrets that are files live until ctx ends.
func (s *Server) watchCerts(ctx context.Context) {
	if err := s.files.Run(ctx); err != nil {
		s.log(admin.LoggerSecret).Error("files of certificates are not watched any more; restart the proxy to have changes served", "reason", err)
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

// secretResources are the live secrets as the resources that SDS would have
// brought, for /config_dump. Keys never leave the tls package, so a mark
// stands in their place, as Envoy puts one.
func secretResources(secrets *tls.Secrets) []admin.Resource {
	var out []admin.Resource
	for _, s := range secrets.All() {
		st := s.Status()
		r := admin.Resource{Name: st.Name, Version: fmt.Sprint(st.Updates), Updated: st.Updated, Warming: st.Updates == 0}
		m := &tlsv3.Secret{Name: st.Name}
		switch {
		case len(st.Chain) > 0:
			m.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
				CertificateChain: pemSource(st.Chain),
				PrivateKey:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte("[redacted]")}},
			}}
		case len(st.Anchors) > 0:
			m.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: pemSource(st.Anchors)}}
		}
		var err error
		if r.Message, err = anypb.New(m); err == nil {
			out = append(out, r)
		}
	}
	return out
}

func pemSource(certs []*x509.Certificate) *corev3.DataSource {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: text}}
}
