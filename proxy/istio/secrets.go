// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"pillion/proxy/istio/source"
)

// secretStore makes xDS secrets of those Kubernetes Secrets and ConfigMaps that a
// credentialName asks for. What is missing or broken is an error where it is asked for:
// a listener must not come up without the certificate that it was given.
type secretStore struct {
	own        string // the proxy's namespace
	rep        *report
	identified bool
	byName     map[string]*source.Object // "Secret/namespace/name", or of a ConfigMap
	made       map[string]*tlsv3.Secret  // by resource name
}

func newSecretStore(objs []*source.Object, o *Options, rep *report) *secretStore {
	s := &secretStore{own: o.Namespace, rep: rep, identified: o.identified(), byName: map[string]*source.Object{}, made: map[string]*tlsv3.Secret{}}
	for _, obj := range objs {
		if _, ok := obj.Spec.(*source.Secret); ok {
			s.byName[obj.ID()] = obj
		}
	}
	return s
}

// used are the secrets that were asked for, by name.
func (s *secretStore) used() []*tlsv3.Secret {
	var out []*tlsv3.Secret
	for _, name := range sortedKeys(s.made) {
		out = append(out, s.made[name])
	}
	return out
}

// credentialUse is one place where a credential is asked for.
type credentialUse struct {
	obj        *source.Object
	field      string
	credential string
}

// certificate asks for a certificate with its key; nil if it can't be had.
func (s *secretStore) certificate(use credentialUse) *tlsv3.SdsSecretConfig {
	if strings.HasPrefix(use.credential, secretBuiltin) {
		return s.builtin(use, secretOwn)
	}
	obj, name := s.find(use, false)
	if obj == nil {
		return nil
	}
	if s.made[name] == nil {
		cert, key, err := keyPair(obj.Spec.(*source.Secret))
		if err != nil {
			s.rep.errorf(use.obj, use.field, "%s %v", place(obj), err)
			return nil
		}
		s.made[name] = &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(cert), PrivateKey: inline(key),
		}}}
	}
	return adsSecret(name)
}

// anchors asks for the trust anchors that go with a credential: those of its twin
// NAME-cacert, else its own; nil if they can't be had.
func (s *secretStore) anchors(use credentialUse) *tlsv3.SdsSecretConfig {
	if strings.HasPrefix(use.credential, secretBuiltin) {
		return s.builtin(use, secretRoots)
	}
	obj, name := s.find(use, true)
	if obj == nil {
		return nil
	}
	if s.made[name] == nil {
		ca, crl, err := trustAnchors(obj.Spec.(*source.Secret))
		if err != nil {
			s.rep.errorf(use.obj, use.field, "%s %v", place(obj), err)
			return nil
		}
		context := &tlsv3.CertificateValidationContext{TrustedCa: inline(ca)}
		if len(crl) > 0 {
			context.Crl = inline(crl)
		}
		s.made[name] = &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: context}}
	}
	return adsSecret(name)
}

// builtin is the proxy's own identity, which a credential may stand for.
func (s *secretStore) builtin(use credentialUse, name string) *tlsv3.SdsSecretConfig {
	if !s.identified {
		s.rep.errorf(use.obj, use.field, "%s is the proxy's certificate of the mesh, and it has none: name its directory with --certs", use.credential)
		return nil
	}
	return agentSecret(name)
}

// find finds the object of a credential and the name of the secret that is made of it.
// A name without a namespace is of the proxy's own, as in a cluster, where a gateway
// reads the secrets beside it; one proxy for several namespaces also has those beside
// the object that names them.
func (s *secretStore) find(use credentialUse, anchors bool) (*source.Object, string) {
	credential := use.credential
	if anchors && !strings.HasSuffix(credential, suffixCA) {
		credential += suffixCA
	}
	resource := secretName(credential)
	scheme, path, _ := strings.Cut(resource, "://")
	kind := "Secret"
	if scheme+"://" == secretConfigMap {
		kind = "ConfigMap"
	}
	namespaces := []string{s.own, use.obj.Namespace}
	name := path
	if ns, rest, ok := strings.Cut(path, "/"); ok {
		namespaces, name = []string{ns}, rest
	} else if kind == "ConfigMap" {
		s.rep.errorf(use.obj, use.field, "%q has to be of the form configmap://NAMESPACE/NAME", use.credential)
		return nil, ""
	}
	for i, ns := range namespaces {
		obj := s.byName[kind+"/"+ns+"/"+name]
		if obj == nil && anchors {
			obj = s.byName[kind+"/"+ns+"/"+strings.TrimSuffix(name, suffixCA)]
		}
		if obj == nil {
			continue
		}
		if i > 0 {
			resource = scheme + "://" + ns + "/" + name
		}
		return obj, resource
	}
	if anchors {
		name = strings.TrimSuffix(name, suffixCA)
	}
	s.rep.errorf(use.obj, use.field, "there is no %s %s in namespace %s; give it with the other resources", kind, name, strings.Join(compact(namespaces), " or "))
	return nil, ""
}

// compact leaves out what stands there twice in a row.
func compact(list []string) []string {
	if len(list) == 2 && list[0] == list[1] {
		return list[:1]
	}
	return list
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

// keyPair takes a certificate and key out of a secret, under either pair of names, and
// makes sure that they can be served.
func keyPair(s *source.Secret) (cert, key []byte, err error) {
	for _, names := range [...][2]string{{"cert", "key"}, {"tls.crt", "tls.key"}} {
		cert, key = s.Data[names[0]], s.Data[names[1]]
		if len(cert) == 0 || len(key) == 0 {
			continue
		}
		if err := checkPair(cert, key); err != nil {
			return nil, nil, fmt.Errorf("can't be served: %w", err)
		}
		return cert, key, nil
	}
	return nil, nil, fmt.Errorf(`has neither "tls.crt" and "tls.key" nor "cert" and "key"%s`, has(s))
}

// checkPair makes sure that a certificate and a key are what they should be and belong
// together.
func checkPair(cert, key []byte) error {
	block, rest := pem.Decode(cert)
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("its certificate isn't one in PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("its certificate: %w", err)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		if err := checkAnchors(rest); err != nil {
			return fmt.Errorf("its certificate's chain: %w", err)
		}
	}
	private, err := parseKey(key)
	if err != nil {
		return err
	}
	public, ok := private.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return errors.New("its key is not that of its certificate")
	}
	return nil
}

// parseKey reads a private key in one of the forms that are in use. Errors tell nothing
// of its content.
func parseKey(text []byte) (crypto.Signer, error) {
	var block *pem.Block
	for rest := text; ; {
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("its key isn't one in PEM")
		}
		if block.Type != "EC PARAMETERS" { // openssl puts them before a key
			break
		}
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a %s is not a key that can be used", block.Type)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("its key can't be read")
	}
	return signer, nil
}

// trustAnchors takes the certificates of authorities out of a secret, and what they
// have revoked.
func trustAnchors(s *source.Secret) (ca, crl []byte, err error) {
	for _, names := range [...][2]string{{"cacert", "crl"}, {"ca.crt", "ca.crl"}} {
		ca, crl = s.Data[names[0]], s.Data[names[1]]
		if len(ca) == 0 {
			continue
		}
		if err := checkAnchors(ca); err != nil {
			return nil, nil, fmt.Errorf("can't verify anybody: %s: %w", names[0], err)
		}
		if err := checkCRL(crl); err != nil {
			return nil, nil, fmt.Errorf("can't verify anybody: %s: %w", names[1], err)
		}
		return ca, crl, nil
	}
	return nil, nil, fmt.Errorf(`has neither "ca.crt" nor "cacert", by which to verify%s`, has(s))
}

// has lists what a secret has, for messages.
func has(s *source.Secret) string {
	var names []string
	for _, n := range sortedKeys(s.Data) {
		if len(s.Data[n]) == 0 {
			n += " (empty)"
		}
		names = append(names, n)
	}
	names = append(names, s.Others...)
	switch {
	case len(names) == 0:
		return "; it is empty"
	case len(names) > 5:
		return fmt.Sprintf("; it has %s and %d more", strings.Join(names[:5], ", "), len(names)-5)
	}
	return "; it has " + strings.Join(names, ", ")
}

// checkAnchors makes sure that a text holds certificates and nothing broken.
func checkAnchors(text []byte) error {
	n := 0
	for rest := text; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a %s", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d: %w", n+1, err)
		}
	}
	if n == 0 {
		return errors.New("holds no certificate in PEM")
	}
	return nil
}

// checkCRL makes sure that a list of revoked certificates, if there is one, is one.
func checkCRL(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "X509 CRL" {
		return errors.New("holds no X509 CRL in PEM")
	}
	_, err := x509.ParseRevocationList(block.Bytes)
	return err
}
