// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"pillion/proxy/admin"
	"pillion/proxy/config"
	"pillion/proxy/istio/source"
	"pillion/proxy/tls"
	"pillion/proxy/tls/istioca"
	"pillion/proxy/tls/renew"
	"pillion/proxy/tls/sds"
	"pillion/proxy/tls/workloadapi"
)

// defaultTrustDomain is Istio's.
const defaultTrustDomain = "cluster.local"

// identityTimeout bounds the wait for the first certificate at the start.
const identityTimeout = 10 * time.Second

// Identity says where the workload's certificate, and what other workloads'
// have to lead to, come from while the proxy runs. At most one of WorkloadAPI,
// SDS and CA is set; none if they are files (Options.CertsDir) or there are none.
type Identity struct {
	// ID is the SPIFFE ID that is wanted. Empty: what WorkloadAPI or SDS gives
	// will do, and CA is asked for that of namespace and service account.
	ID string
	// WorkloadAPI and SDS are paths of sockets.
	WorkloadAPI, SDS string
	// CA is the HOST:PORT of a CA that speaks Istio's protocol; CARoot the file
	// of what its certificate has to lead to, empty for the machine's own
	// anchors; Token the file of the bearer token.
	CA, CARoot, Token string
	// Request is how CA is spoken to and what it is asked for.
	Request CARequest
	// Files are the certificate's where they don't have the names that
	// Options.CertsDir wants.
	Files CertFiles
	// Timeout bounds the wait for the first certificate; 0: ten seconds.
	Timeout time.Duration
}

// CARequest is what a CA is told beside the workload's identity. The zero value
// has the defaults of Istio's agent.
type CARequest struct {
	ServerName              string            // that its certificate is for; empty: the host of its address
	ClusterID               string            // empty: "Kubernetes"
	Headers                 map[string]string // of gRPC
	ECDSA                   string            // the key's curve, P256 or P384; empty: RSA
	RSABits                 int               // 2048, 3072 or 4096; 0: 2048
	PKCS8                   bool              // the key's form in OutputDir
	TTL                     time.Duration
	GraceRatio, GraceJitter float64 // of a certificate's life is left when it is renewed
	OutputDir               string  // where the certificate is written for others
	CertSigner              string
}

// CertFiles are a certificate, its key, and what others' have to lead to.
type CertFiles struct{ Chain, Key, Root string }

// keyKind is the kind of key that is asked for.
func (r *CARequest) keyKind() (istioca.KeyKind, error) {
	switch r.ECDSA {
	case "P256":
		return istioca.P256, nil
	case "P384":
		return istioca.P384, nil
	case "":
		switch r.RSABits {
		case 0, 2048:
			return istioca.RSA2048, nil
		case 3072:
			return istioca.RSA3072, nil
		case 4096:
			return istioca.RSA4096, nil
		}
		return 0, fmt.Errorf("RSA keys have 2048, 3072 or 4096 bits, not %d", r.RSABits)
	}
	return 0, fmt.Errorf("keys of ECDSA are of P256 or P384, not of %q", r.ECDSA)
}

// validateIdentity refuses an identity that nobody can mean.
func (o *Options) validateIdentity() error {
	n := 0
	for _, source := range []string{o.CertsDir, o.Identity.Files.Chain, o.Identity.WorkloadAPI, o.Identity.SDS, o.Identity.CA} {
		if source != "" {
			n++
		}
	}
	if n > 1 {
		return errors.New("the workload has one certificate: it comes from files, from a Workload API, from SDS or from a CA, not from two of them")
	}
	if o.Identity.ID != "" {
		if _, err := tls.ParseID(o.Identity.ID); err != nil {
			return fmt.Errorf("the workload's identity: %w", err)
		}
	}
	return nil
}

// addSource makes the live source of certificates that the options name.
func (s *Server) addSource() error {
	if err := s.o.validateIdentity(); err != nil {
		return err
	}
	live, err := s.newSource()
	if live == nil || err != nil {
		return err
	}
	s.source = live
	s.registry.Add(live.Status())
	return nil
}

// liveSource is a source of certificates that tells how it fares.
type liveSource interface {
	tls.Source
	Status() *renew.Status
}

// newSource makes the source of the workload's certificate; nil if there is
// none but files.
func (s *Server) newSource() (liveSource, error) {
	id := s.o.Identity
	switch {
	case id.WorkloadAPI != "":
		return workloadapi.New(workloadapi.Options{Socket: id.WorkloadAPI, ID: id.ID,
			Certificate: s.secrets.Secret(ownCertificate), Roots: s.secrets.Secret(meshRoots), Logger: s.log(admin.LoggerSecret)})
	case id.SDS != "":
		return sds.New(sds.Options{Socket: id.SDS, Node: s.node(), Secrets: []*tls.Secret{s.secrets.Secret(ownCertificate), s.secrets.Secret(meshRoots)},
			Apply: s.applySecret, Logger: s.log(admin.LoggerSecret)})
	case id.CA != "":
		want := id.ID
		if want == "" {
			want = tls.MeshID(s.trustDomain(), s.o.Namespace, firstOf(s.o.ServiceAccount, "default")).String()
		}
		q := &id.Request
		key, err := q.keyKind()
		if err != nil {
			return nil, err
		}
		return istioca.New(istioca.Options{Addr: id.CA, RootFile: id.CARoot, TokenFile: id.Token, ServerName: q.ServerName,
			ClusterID: firstOf(q.ClusterID, "Kubernetes"), Headers: q.Headers, ID: want, Key: key, PKCS8: q.PKCS8, TTL: q.TTL,
			GraceRatio: q.GraceRatio, GraceJitter: q.GraceJitter, OutputDir: q.OutputDir, CertSigner: q.CertSigner,
			Certificate: s.secrets.Secret(ownCertificate), Roots: s.secrets.Secret(meshRoots), Logger: s.log(admin.LoggerSecret)})
	}
	return nil, nil
}

// trustDomain is the mesh's. A file that can't be read is complained about
// where the configuration is read.
func (s *Server) trustDomain() string {
	if s.o.MeshConfig == "" {
		return defaultTrustDomain
	}
	mesh, _ := source.LoadMeshConfig(s.o.MeshConfig)
	if mesh == nil {
		return defaultTrustDomain
	}
	settings, ok := mesh.Spec.(interface{ GetTrustDomain() string })
	if !ok {
		return defaultTrustDomain
	}
	return firstOf(settings.GetTrustDomain(), defaultTrustDomain)
}

// applySecret takes a secret that came by SDS.
func (s *Server) applySecret(r *tlsv3.Secret) error {
	want := ""
	if r.GetName() == ownCertificate {
		want = s.o.Identity.ID
	}
	return config.ApplySecret(s.secrets, r, want, sds.Name)
}

// node is the proxy as servers of xDS know it, in Istio's form. With files, who it is in
// traces is known when they have been read.
func (s *Server) node() *corev3.Node {
	if d := s.o.Discovery; d != nil && d.Node != nil {
		return d.Node
	}
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	name := firstOf(s.o.Workload, s.o.ServiceAccount, "default")
	service := name + "." + s.o.Namespace
	if s.current != nil {
		service = s.current.service
	}
	return &corev3.Node{
		Id:            "sidecar~127.0.0.1~" + name + "." + s.o.Namespace + "~" + s.o.Namespace + ".svc.cluster.local",
		Cluster:       service,
		UserAgentName: "pillion", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: s.o.Version},
	}
}

// startSource runs the source of certificates, and waits a while for the
// first certificate, so that the first connections aren't refused for want of
// it. Without one the proxy serves all the same: handshakes that need it fail
// until it has come.
func (s *Server) startSource() {
	if s.source == nil {
		return
	}
	s.goRun(func(ctx context.Context) {
		if err := s.source.Run(ctx); err != nil {
			s.log(admin.LoggerSecret).Error("certificates are not renewed any more; restart the proxy", "reason", err)
		}
	})
	limit := s.o.Identity.Timeout
	if limit == 0 {
		limit = identityTimeout
	}
	ctx, cancel := context.WithTimeout(s.waiting, limit)
	defer cancel()
	for _, name := range []string{ownCertificate, meshRoots} {
		secret := s.secrets.Secret(name)
		select {
		case <-secret.Ready():
		case <-ctx.Done():
			if s.waiting.Err() != nil {
				return // the proxy is to end
			}
			s.log(admin.LoggerSecret).Error("starting without a certificate: connections that need one are refused until it has come",
				"secret", name, "waited", limit, "reason", firstOf(secret.Status().LastError, "the source hasn't answered"))
			return
		}
	}
}

// live reports whether the workload's certificate comes from elsewhere than files.
func (i *Identity) live() bool { return i.WorkloadAPI != "" || i.SDS != "" || i.CA != "" }
