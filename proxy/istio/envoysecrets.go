// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"path/filepath"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
)

// Names of the files of a proxy's own certificate (Istio's OUTPUT_CERTS).
const (
	fileChain = "cert-chain.pem"
	fileKey   = "key.pem"
	fileRoots = "root-cert.pem"
)

// systemRootsFile is where Debian and its like keep the machine's trust anchors.
const systemRootsFile = "/etc/ssl/certs/ca-certificates.crt"

// redacted is a secret as it may be shown: without its private key, as Envoy's
// config_dump has it.
func redacted(s *tlsv3.Secret) *tlsv3.Secret {
	if s.GetTlsCertificate() == nil {
		return s
	}
	out := proto.Clone(s).(*tlsv3.Secret)
	out.GetTlsCertificate().PrivateKey = inline([]byte("[redacted]"))
	return out
}

// staticSecrets are the secrets of a configuration that no control plane serves.
type staticSecrets struct {
	resources *Resources
	names     map[string]bool // those in all
	all       []*tlsv3.Secret
	agent     bool // some secret is asked of Istio's agent
}

// ofCluster makes a cluster's contexts name secrets of the bootstrap.
func (s *staticSecrets) ofCluster(c *clusterv3.Cluster) error {
	sockets := []*corev3.TransportSocket{c.TransportSocket}
	for _, m := range c.TransportSocketMatches {
		sockets = append(sockets, m.TransportSocket)
	}
	for _, socket := range sockets {
		if socket.GetName() != socketTLS {
			continue
		}
		context := &tlsv3.UpstreamTlsContext{}
		if err := s.rewrite(socket, context, context.GetCommonTlsContext); err != nil {
			return err
		}
	}
	return nil
}

// ofListener does the same for a listener.
func (s *staticSecrets) ofListener(l *listenerv3.Listener) error {
	chains := l.FilterChains
	if l.DefaultFilterChain != nil {
		chains = append(chains[:len(chains):len(chains)], l.DefaultFilterChain)
	}
	for _, chain := range chains {
		if chain.GetTransportSocket().GetName() != socketTLS {
			continue
		}
		context := &tlsv3.DownstreamTlsContext{}
		if err := s.rewrite(chain.TransportSocket, context, context.GetCommonTlsContext); err != nil {
			return fmt.Errorf("chain %s: %w", chain.Name, err)
		}
	}
	return nil
}

// rewrite reads a context, lets its secrets be found in the bootstrap, and puts it back.
func (s *staticSecrets) rewrite(socket *corev3.TransportSocket, context proto.Message, common func() *tlsv3.CommonTlsContext) error {
	if err := socket.GetTypedConfig().UnmarshalTo(context); err != nil {
		return err
	}
	uses := append([]*tlsv3.SdsSecretConfig(nil), common().GetTlsCertificateSdsSecretConfigs()...)
	if v := common().GetCombinedValidationContext().GetValidationContextSdsSecretConfig(); v != nil {
		uses = append(uses, v)
	}
	for _, use := range uses {
		if s.resources.CertsDir == "" && (use.Name == secretOwn || use.Name == secretRoots) {
			s.agent = true
			continue
		}
		use.SdsConfig = nil // Envoy then looks among its static secrets
		if err := s.add(use.Name); err != nil {
			return err
		}
	}
	socket.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: pack(context)}
	return nil
}

// add puts a secret into the bootstrap, once.
func (s *staticSecrets) add(name string) error {
	if s.names[name] {
		return nil
	}
	secret, err := s.make(name)
	if err != nil {
		return err
	}
	s.names[name] = true
	s.all = append(s.all, secret)
	return nil
}

func (s *staticSecrets) make(name string) (*tlsv3.Secret, error) {
	pair, isPair := strings.CutPrefix(name, secretFileCert)
	root, isRoot := strings.CutPrefix(name, secretFileRoot)
	switch {
	case isPair:
		cert, key, _ := strings.Cut(pair, "~")
		return certificateFiles(name, cert, key), nil
	case isRoot:
		if root == systemRoots {
			root = systemRootsFile
		}
		return anchorsFile(name, root), nil
	case name == secretOwn || name == secretRoots:
		dir := s.resources.CertsDir
		if name == secretRoots {
			return anchorsFile(name, filepath.Join(dir, fileRoots)), nil
		}
		return certificateFiles(name, filepath.Join(dir, fileChain), filepath.Join(dir, fileKey)), nil
	}
	for _, have := range s.resources.Secrets {
		if have.Name == name {
			return have, nil
		}
	}
	return nil, fmt.Errorf("there is no secret %s", name)
}

func certificateFiles(name, cert, key string) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: file(cert), PrivateKey: file(key),
	}}}
}

func anchorsFile(name, ca string) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: file(ca)},
	}}
}

func file(name string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: name}}
}
