// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"weak"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/tls"
)

// Transport sockets by the name of their message.
const (
	downstreamTLSType = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
	upstreamTLSType   = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
)

// tlsContexts compiles TLS contexts. One that has not changed is found again,
// with its sessions, its tickets and its counters, as long as anybody uses it.
// Safe for concurrent use.
type tlsContexts struct {
	secrets *tls.Secrets

	mu      sync.Mutex
	servers map[contextKey]weak.Pointer[tls.Server] // guarded by mu
	clients map[contextKey]weak.Pointer[tls.Client] // guarded by mu
	stats   map[string]weak.Pointer[tls.Stats]      // by owner; guarded by mu
}

// contextKey is what a context was compiled from, and for whom.
type contextKey struct {
	owner string
	sum   [sha256.Size]byte
}

func newTLSContexts(secrets *tls.Secrets) *tlsContexts {
	return &tlsContexts{secrets: secrets, servers: map[contextKey]weak.Pointer[tls.Server]{},
		clients: map[contextKey]weak.Pointer[tls.Client]{}, stats: map[string]weak.Pointer[tls.Stats]{}}
}

// compileServerTLS compiles a DownstreamTlsContext. owner is the listener whose
// counters it adds to. An error begins with the field that can't be honoured.
func (c *Compiler) compileServerTLS(owner string, a *anypb.Any) (*tls.Server, error) {
	return c.tls.server(owner, a)
}

// compileClientTLS compiles an UpstreamTlsContext for the cluster that is its
// owner.
func (c *Compiler) compileClientTLS(owner string, a *anypb.Any) (*tls.Client, error) {
	return c.tls.client(owner, a)
}

func (t *tlsContexts) server(owner string, a *anypb.Any) (*tls.Server, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := contextKey{owner, sha256.Sum256(a.GetValue())}
	if got := t.servers[key].Value(); got != nil {
		return got, nil
	}
	m := &tlsv3.DownstreamTlsContext{}
	if err := unmarshalAs(a, m, downstreamTLSType); err != nil {
		return nil, err
	}
	cfg, err := t.serverConfig(m)
	if err != nil {
		return nil, err
	}
	cfg.Stats = t.ownerStats(owner)
	s, err := tls.NewServer(cfg)
	if err != nil {
		return nil, at("common_tls_context", err)
	}
	prune(t.servers)
	t.servers[key] = weak.Make(s)
	return s, nil
}

func (t *tlsContexts) client(owner string, a *anypb.Any) (*tls.Client, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := contextKey{owner, sha256.Sum256(a.GetValue())}
	if got := t.clients[key].Value(); got != nil {
		return got, nil
	}
	m := &tlsv3.UpstreamTlsContext{}
	if err := unmarshalAs(a, m, upstreamTLSType); err != nil {
		return nil, err
	}
	cfg, err := t.clientConfig(m)
	if err != nil {
		return nil, err
	}
	cfg.Stats = t.ownerStats(owner)
	c, err := tls.NewClient(cfg, t.secrets)
	if err != nil {
		return nil, at("common_tls_context", err)
	}
	prune(t.clients)
	t.clients[key] = weak.Make(c)
	return c, nil
}

// ownerStats returns the counters of a listener or cluster; they outlive a
// change of its context. t.mu is held.
func (t *tlsContexts) ownerStats(owner string) *tls.Stats {
	if got := t.stats[owner].Value(); got != nil {
		return got
	}
	made := new(tls.Stats)
	prune(t.stats)
	t.stats[owner] = weak.Make(made)
	return made
}

// prune forgets what nobody uses any more. It looks at a few entries at a
// time, so that a thousand contexts aren't walked a thousand times; an entry
// costs little more than its name.
func prune[K comparable, T any](m map[K]weak.Pointer[T]) {
	looked := 0
	for k, p := range m {
		if looked++; looked > 8 {
			return
		}
		if p.Value() == nil {
			delete(m, k)
		}
	}
}

func unmarshalAs(a *anypb.Any, m proto.Message, want string) error {
	if typ := messageType(a); typ != want {
		return fmt.Errorf("typed_config: a %s is needed, got %q", want, typ)
	}
	if err := proto.Unmarshal(a.GetValue(), m); err != nil {
		return fmt.Errorf("typed_config: %w", err)
	}
	return nil
}

// downstreamFields mean something here, or nothing can go wrong without them:
// Go keeps no sessions on the server's side (disable_stateful_session_resumption),
// looks at all certificates (full_scan_certs_on_sni_mismatch), and orders
// suites by what is fast on both sides (prefer_client_ciphers).
var downstreamFields = fieldSet("common_tls_context", "require_client_certificate", "require_sni", "disable_stateful_session_resumption",
	"disable_stateless_session_resumption", "session_timeout", "ocsp_staple_policy", "full_scan_certs_on_sni_mismatch", "prefer_client_ciphers")

func (t *tlsContexts) serverConfig(m *tlsv3.DownstreamTlsContext) (cfg tls.ServerConfig, err error) {
	if err := onlyFields(m, downstreamFields); err != nil {
		return cfg, err
	}
	if p := m.GetOcspStaplePolicy(); p != tlsv3.DownstreamTlsContext_LENIENT_STAPLING {
		return cfg, fmt.Errorf("ocsp_staple_policy: %s is not supported: no OCSP responses are stapled", p)
	}
	cfg.RequireClientCertificate = m.GetRequireClientCertificate().GetValue()
	cfg.RequireSNI = m.GetRequireSni().GetValue()
	cfg.NoTickets = m.GetDisableStatelessSessionResumption()
	if cfg.SessionTimeout, err = span("session_timeout", m.GetSessionTimeout(), 0); err != nil {
		return cfg, err
	}
	common, err := t.common(m.GetCommonTlsContext())
	if err != nil {
		return cfg, at("common_tls_context", err)
	}
	cfg.Params, cfg.ALPN, cfg.Certificates, cfg.Validation = common.params, common.alpn, common.certificates, common.validation
	return cfg, nil
}

var upstreamFields = fieldSet("common_tls_context", "sni", "auto_sni_san_validation", "max_session_keys", "enforce_rsa_key_usage")

func (t *tlsContexts) clientConfig(m *tlsv3.UpstreamTlsContext) (cfg tls.ClientConfig, err error) {
	if m.GetAllowRenegotiation() {
		return cfg, fmt.Errorf("allow_renegotiation: is not supported, a server could put another one's requests before ours")
	}
	if err := onlyFields(m, upstreamFields); err != nil {
		return cfg, err
	}
	if len(m.GetSni()) > 255 {
		return cfg, fmt.Errorf("sni: is longer than 255 bytes")
	}
	cfg.ServerName, cfg.AutoSNISAN = m.GetSni(), m.GetAutoSniSanValidation()
	cfg.NoSessions = m.GetMaxSessionKeys() != nil && m.GetMaxSessionKeys().GetValue() == 0
	cfg.EnforceKeyUsage = m.GetEnforceRsaKeyUsage().GetValue()
	common, err := t.common(m.GetCommonTlsContext())
	if err != nil {
		return cfg, at("common_tls_context", err)
	}
	cfg.Params, cfg.ALPN, cfg.Certificates, cfg.Validation = common.params, common.alpn, common.certificates, common.validation
	if len(cfg.Certificates) > 1 {
		return cfg, fmt.Errorf("common_tls_context.tls_certificates: a client has one at most")
	}
	return cfg, nil
}

// commonContext is what both sides' contexts hold.
type commonContext struct {
	params       tls.Params
	certificates []*tls.Secret
	validation   *tls.Validation
	alpn         []string
}

var commonTLSFields = fieldSet("tls_params", "tls_certificates", "tls_certificate_sds_secret_configs", "alpn_protocols",
	"validation_context", "validation_context_sds_secret_config", "combined_validation_context")

func (t *tlsContexts) common(m *tlsv3.CommonTlsContext) (out commonContext, err error) {
	if err := onlyFields(m, commonTLSFields); err != nil {
		return out, err
	}
	if out.params, err = compileTLSParams(m.GetTlsParams()); err != nil {
		return out, at("tls_params", err)
	}
	out.alpn = m.GetAlpnProtocols()
	for i, p := range out.alpn {
		if p == "" || len(p) > 255 {
			return out, fmt.Errorf("alpn_protocols[%d]: has %d bytes, not 1 to 255", i, len(p))
		}
	}
	for i, c := range m.GetTlsCertificates() {
		s, err := t.certificate(c)
		if err != nil {
			return out, at(fmt.Sprintf("tls_certificates[%d]", i), err)
		}
		out.certificates = append(out.certificates, s)
	}
	for i, c := range m.GetTlsCertificateSdsSecretConfigs() {
		s, err := t.sds(c)
		if err != nil {
			return out, at(fmt.Sprintf("tls_certificate_sds_secret_configs[%d]", i), err)
		}
		out.certificates = append(out.certificates, s)
	}
	out.validation, err = t.validationOf(m)
	return out, err
}

// sds returns the place of a secret that a source brings. Where it asks for it
// is the source's business, so sds_config is not looked at.
func (t *tlsContexts) sds(m *tlsv3.SdsSecretConfig) (*tls.Secret, error) {
	if m.GetName() == "" {
		return nil, fmt.Errorf("name: is empty")
	}
	return t.secrets.Secret(m.GetName()), nil
}

var tlsParamFields = fieldSet("tls_minimum_protocol_version", "tls_maximum_protocol_version", "cipher_suites", "ecdh_curves", "compliance_policies")

func compileTLSParams(m *tlsv3.TlsParameters) (p tls.Params, err error) {
	if m == nil {
		return p, nil
	}
	if err := onlyFields(m, tlsParamFields); err != nil {
		return p, err
	}
	switch m.GetTlsMinimumProtocolVersion() {
	case tlsv3.TlsParameters_TLSv1_3:
		p.Min = tls.Version13
	default: // an older minimum is raised: who could only speak that is refused
		p.Min = tls.Version12
	}
	switch v := m.GetTlsMaximumProtocolVersion(); v {
	case tlsv3.TlsParameters_TLS_AUTO, tlsv3.TlsParameters_TLSv1_3:
	case tlsv3.TlsParameters_TLSv1_2:
		p.Max = tls.Version12
	default:
		return p, fmt.Errorf("tls_maximum_protocol_version: %s is not served", v)
	}
	p.CipherSuites, p.Curves = m.GetCipherSuites(), m.GetEcdhCurves()
	for i, policy := range m.GetCompliancePolicies() {
		if policy != tlsv3.TlsParameters_FIPS_202205 {
			return p, fmt.Errorf("compliance_policies[%d]: %s is not supported", i, policy)
		}
		// As BoringSSL's ssl_compliance_policy_fips_202205.
		p.Min = max(p.Min, tls.Version12)
		p.CipherSuites = []string{"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"}
		p.Curves = []string{"P-256", "P-384"}
	}
	return p, nil
}
