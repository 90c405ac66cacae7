// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 istiod sets match_subject_alt_names, which is deprecated

package config

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"pillion/proxy/tls"
)

// systemRoots is the name of the secret that holds the machine's own anchors.
const systemRoots = "file-root:system"

var combinedFields = fieldSet("default_validation_context", "validation_context_sds_secret_config")

// validationOf compiles how peers are checked; nil if they aren't.
func (t *tlsContexts) validationOf(m *tlsv3.CommonTlsContext) (*tls.Validation, error) {
	switch v := m.GetValidationContextType().(type) {
	case nil:
		return nil, nil
	case *tlsv3.CommonTlsContext_ValidationContext:
		out, err := t.validation(v.ValidationContext)
		return out, at("validation_context", err)
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		anchors, err := t.sds(v.ValidationContextSdsSecretConfig)
		return &tls.Validation{Anchors: anchors}, at("validation_context_sds_secret_config", err)
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		c := v.CombinedValidationContext
		if err := onlyFields(c, combinedFields); err != nil {
			return nil, at("combined_validation_context", err)
		}
		out, err := t.validation(c.GetDefaultValidationContext())
		if err != nil {
			return nil, at("combined_validation_context.default_validation_context", err)
		}
		if crl := c.GetDefaultValidationContext().GetCrl(); crl != nil {
			if out.CRL, err = inlineData(crl); err != nil {
				return nil, at("combined_validation_context.default_validation_context.crl", err)
			}
		}
		// The secret's anchors stand in the place of the default's.
		out.Anchors, err = t.sds(c.GetValidationContextSdsSecretConfig())
		return out, at("combined_validation_context.validation_context_sds_secret_config", err)
	}
	return nil, fmt.Errorf("validation_context_type: certificate providers are not supported")
}

// validationFields: directories of files are always watched (watched_directory).
var validationFields = fieldSet("trusted_ca", "system_root_certs", "watched_directory", "verify_certificate_spki", "verify_certificate_hash",
	"match_typed_subject_alt_names", "match_subject_alt_names", "crl", "allow_expired_certificate", "trust_chain_verification",
	"custom_validator_config", "only_verify_leaf_cert_crl", "max_verify_depth", "suppress_client_ca_list")

func (t *tlsContexts) validation(m *tlsv3.CertificateValidationContext) (*tls.Validation, error) {
	if err := onlyFields(m, validationFields); err != nil {
		return nil, err
	}
	out := &tls.Validation{AllowExpired: m.GetAllowExpiredCertificate(), CRLLeafOnly: m.GetOnlyVerifyLeafCertCrl(),
		AcceptUntrusted: m.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED,
		NoCAList:        m.GetSuppressClientCaList()}
	if d := m.GetMaxVerifyDepth(); d != nil {
		if d.GetValue() > 100 {
			return nil, fmt.Errorf("max_verify_depth: %d is above 100", d.GetValue())
		}
		depth := int(d.GetValue())
		out.MaxDepth = &depth
	}
	if err := pins(out, m); err != nil {
		return nil, err
	}
	if err := sanMatchers(out, m); err != nil {
		return nil, err
	}
	var err error
	if out.Anchors, err = t.anchors(m); err != nil {
		return nil, err
	}
	if m.GetCrl() != nil && out.Anchors == nil { // the anchors come from a secret
		if out.CRL, err = inlineData(m.GetCrl()); err != nil {
			return nil, at("crl", err)
		}
	}
	return out, nil
}

// pins compiles the pinned certificates and keys.
func pins(out *tls.Validation, m *tlsv3.CertificateValidationContext) error {
	for i, text := range m.GetVerifyCertificateHash() {
		sum, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
		if err != nil || len(sum) != sha256.Size {
			return fmt.Errorf("verify_certificate_hash[%d]: %q is no SHA-256 in hexadecimal", i, text)
		}
		out.Hashes = append(out.Hashes, [sha256.Size]byte(sum))
	}
	for i, text := range m.GetVerifyCertificateSpki() {
		sum, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(sum) != sha256.Size {
			return fmt.Errorf("verify_certificate_spki[%d]: %q is no SHA-256 in base64", i, text)
		}
		out.SPKIs = append(out.SPKIs, [sha256.Size]byte(sum))
	}
	return nil
}

var sanTypes = map[tlsv3.SubjectAltNameMatcher_SanType]tls.SANType{
	tlsv3.SubjectAltNameMatcher_EMAIL:      tls.SANEmail,
	tlsv3.SubjectAltNameMatcher_DNS:        tls.SANDNS,
	tlsv3.SubjectAltNameMatcher_URI:        tls.SANURI,
	tlsv3.SubjectAltNameMatcher_IP_ADDRESS: tls.SANIP,
}

// sanMatchers compiles the names that peers may have. The typed field holds
// alone if both are set (Envoy: CertificateValidationContextConfigImpl).
func sanMatchers(out *tls.Validation, m *tlsv3.CertificateValidationContext) error {
	for i, s := range m.GetMatchTypedSubjectAltNames() {
		path := fmt.Sprintf("match_typed_subject_alt_names[%d]", i)
		typ, ok := sanTypes[s.GetSanType()]
		if !ok || s.GetOid() != "" {
			return fmt.Errorf("%s.san_type: %s is not supported", path, s.GetSanType())
		}
		if err := addSAN(out, typ, s.GetMatcher()); err != nil {
			return at(path+".matcher", err)
		}
	}
	if len(out.SANs) > 0 {
		return nil
	}
	for i, s := range m.GetMatchSubjectAltNames() {
		if err := addSAN(out, tls.SANAny, s); err != nil {
			return at(fmt.Sprintf("match_subject_alt_names[%d]", i), err)
		}
	}
	return nil
}

func addSAN(out *tls.Validation, typ tls.SANType, m *matcherv3.StringMatcher) error {
	compiled, err := compileString(m)
	if err != nil {
		return err
	}
	out.SANs = append(out.SANs, tls.SANMatcher{Type: typ, Match: compiled, Exact: m.GetExact()})
	return nil
}
