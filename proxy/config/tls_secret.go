// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"os"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"pillion/proxy/tls"
)

// ApplySecret puts what a Secret resource holds into its place in secrets.
// want, if it isn't empty, is the identity that a certificate has to be for.
// What the resource asks for beyond certificates and anchors is not
// understood here and refuses it; the old content then serves on.
func ApplySecret(secrets *tls.Secrets, r *tlsv3.Secret, want, source string) error {
	place := secrets.Secret(r.GetName())
	err := applySecret(place, r, want, source)
	if err != nil {
		err = fmt.Errorf("secret %s: %w", r.GetName(), err)
	}
	return err
}

func applySecret(place *tls.Secret, r *tlsv3.Secret, want, source string) error {
	fail := func(err error) error {
		place.Fail(source, err)
		return err
	}
	switch t := r.GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		kp, err := keyPairOf(t.TlsCertificate)
		if err != nil {
			return fail(at("tls_certificate", err))
		}
		return place.SetKeyPair(kp, want, source)
	case *tlsv3.Secret_ValidationContext:
		a, err := anchorsOf(t.ValidationContext)
		if err != nil {
			return fail(at("validation_context", err))
		}
		return place.SetAnchors(a, source)
	}
	return fail(fmt.Errorf("type: only tls_certificate and validation_context are supported"))
}

var certificateFields = fieldSet("certificate_chain", "private_key", "watched_directory")

// certificate returns the place of a context's own certificate.
func (t *tlsContexts) certificate(m *tlsv3.TlsCertificate) (*tls.Secret, error) {
	chain, key := m.GetCertificateChain().GetFilename(), m.GetPrivateKey().GetFilename()
	if (chain == "") != (key == "") {
		return nil, fmt.Errorf("private_key: certificate and key must both be files or both stand here")
	}
	if chain != "" {
		if err := onlyFields(m, certificateFields); err != nil {
			return nil, err
		}
		return t.secrets.Secret("file-cert:" + chain + "~" + key), nil
	}
	kp, err := keyPairOf(m)
	if err != nil {
		return nil, err
	}
	s := t.secrets.NewSecret("inline")
	if err := s.SetKeyPair(kp, "", "inline"); err != nil {
		return nil, fmt.Errorf("certificate_chain: %w", errors.Unwrap(err))
	}
	return s, nil
}

// keyPairOf reads a certificate that stands in the resource.
func keyPairOf(m *tlsv3.TlsCertificate) (kp tls.KeyPair, err error) {
	if err := onlyFields(m, certificateFields); err != nil {
		return kp, err
	}
	if kp.Chain, err = inlineData(m.GetCertificateChain()); err != nil {
		return kp, at("certificate_chain", err)
	}
	if kp.Key, err = inlineData(m.GetPrivateKey()); err != nil {
		return kp, at("private_key", err)
	}
	return kp, nil
}

// anchors returns the place of the anchors that a validation names; nil for
// none.
func (t *tlsContexts) anchors(m *tlsv3.CertificateValidationContext) (*tls.Secret, error) {
	if m.GetSystemRootCerts() != nil {
		if m.GetTrustedCa() != nil || m.GetCustomValidatorConfig() != nil {
			return nil, fmt.Errorf("system_root_certs: stands beside other anchors")
		}
		return t.secrets.Secret(systemRoots), nil
	}
	if file := m.GetTrustedCa().GetFilename(); file != "" && m.GetCustomValidatorConfig() == nil {
		if m.GetCrl() != nil {
			crl := m.GetCrl().GetFilename()
			if crl == "" {
				return nil, fmt.Errorf("crl: must be a file if trusted_ca is one")
			}
			return t.secrets.Secret("file-root:" + file + "~" + crl), nil
		}
		return t.secrets.Secret("file-root:" + file), nil
	}
	if m.GetTrustedCa() == nil && m.GetCustomValidatorConfig() == nil {
		return nil, nil
	}
	a, err := trustOf(m)
	if err != nil {
		return nil, err
	}
	s := t.secrets.NewSecret("inline")
	if err := s.SetAnchors(a, "inline"); err != nil {
		return nil, fmt.Errorf("trusted_ca: %w", errors.Unwrap(err))
	}
	return s, nil
}

// anchorFields are what a secret may say of validation. Names and pins stand
// in the context that asks for the secret.
var anchorFields = fieldSet("trusted_ca", "crl", "custom_validator_config", "watched_directory")

func anchorsOf(m *tlsv3.CertificateValidationContext) (a tls.Anchors, err error) {
	if err := onlyFields(m, anchorFields); err != nil {
		return a, err
	}
	return trustOf(m)
}

const spiffeValidatorType = "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"

func trustOf(m *tlsv3.CertificateValidationContext) (a tls.Anchors, err error) {
	if m.GetTrustedCa() != nil {
		if a.CA, err = inlineData(m.GetTrustedCa()); err != nil {
			return a, at("trusted_ca", err)
		}
	}
	if m.GetCrl() != nil {
		if a.CRL, err = inlineData(m.GetCrl()); err != nil {
			return a, at("crl", err)
		}
	}
	custom := m.GetCustomValidatorConfig().GetTypedConfig()
	if custom == nil {
		return a, nil
	}
	v := &tlsv3.SPIFFECertValidatorConfig{}
	if err := unmarshalAs(custom, v, spiffeValidatorType); err != nil {
		return a, at("custom_validator_config", err)
	}
	a.TrustDomains, err = trustDomains(v)
	return a, at("custom_validator_config.typed_config", err)
}

var (
	spiffeFields      = fieldSet("trust_domains")
	trustDomainFields = fieldSet("name", "trust_bundle")
)

func trustDomains(v *tlsv3.SPIFFECertValidatorConfig) (map[string][]byte, error) {
	if err := onlyFields(v, spiffeFields); err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for i, d := range v.GetTrustDomains() {
		path := fmt.Sprintf("trust_domains[%d]", i)
		if err := onlyFields(d, trustDomainFields); err != nil {
			return nil, at(path, err)
		}
		if out[d.GetName()] != nil {
			return nil, fmt.Errorf("%s.name: %q stands here twice", path, d.GetName())
		}
		pem, err := inlineData(d.GetTrustBundle())
		if err != nil {
			return nil, at(path+".trust_bundle", err)
		}
		out[d.GetName()] = pem
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("trust_domains: there is none")
	}
	return out, nil
}

// inlineData returns what stands in a data source, or in the environment
// variable that it names. Files are live, and so go through Secrets instead.
func inlineData(d *corev3.DataSource) ([]byte, error) {
	switch s := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineBytes:
		return s.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), nil
	case *corev3.DataSource_EnvironmentVariable:
		v, ok := os.LookupEnv(s.EnvironmentVariable)
		if !ok {
			return nil, fmt.Errorf("environment_variable: %s is not set", s.EnvironmentVariable)
		}
		return []byte(v), nil
	case *corev3.DataSource_Filename:
		return nil, fmt.Errorf("filename: a file is not supported here")
	}
	return nil, fmt.Errorf("it holds nothing")
}
