// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

func (s *subject) gateway(at *place, g *networking.Gateway) {
	if reason := badLabel(s.Name); s.Name != "" && reason != "" {
		s.failAt(s.top.key("metadata"), "name", "%q %s, as the name of a Gateway must be", clip(s.Name), reason)
	}
	if len(g.Servers) == 0 {
		s.failAt(at, "servers", "at least one server is required")
	}
	names := map[string]int{}
	for i, server := range g.Servers {
		here := at.key("servers").item(i)
		s.server(here, server)
		if server.Port == nil {
			continue
		}
		name := server.Port.Name
		if first, ok := names[name]; ok && name != "" {
			s.failAt(here.key("port"), "name", "%q is the name of the port of servers[%d] too", clip(name), first)
		}
		names[name] = i
	}
}

func (s *subject) server(at *place, server *networking.Server) {
	if len(server.Hosts) == 0 {
		s.failAt(at, "hosts", "at least one host is required")
	}
	for i, h := range server.Hosts {
		s.scopedHost(at.key("hosts").item(i), h, true)
	}
	port := server.Port
	if port == nil {
		s.failAt(at, "port", "is required")
		return
	}
	here := at.key("port")
	s.checkProtocol(here, "protocol", port.Protocol, false)
	if port.Name == "" {
		s.failAt(here, "name", "is required")
	} else {
		s.checkPortName(here, "name", port.Name)
	}
	if path, unix := strings.CutPrefix(server.Bind, unixPrefix); unix {
		if reason := badUnixPath(path); reason != "" {
			s.failAt(at, "bind", "%q %s", clip(path), reason)
		}
		if port.Number != 0 {
			s.failAt(here, "number", "a socket has no port; wants 0")
		}
	} else {
		s.checkPort(here, "number", port.Number)
		s.checkBind(at, server.Bind)
	}
	s.serverTLS(at, server)
}

// serverTLS checks a server's TLS settings and whether its protocol wants some.
func (s *subject) serverTLS(at *place, server *networking.Server) {
	proto := parseProtocol(server.Port.Protocol)
	t := server.Tls
	switch {
	case !proto.known:
		return
	case t == nil:
		if proto.tls {
			s.failAt(at, "tls", "is required for %s", server.Port.Protocol)
		}
		return
	case proto.http:
		// A plain server may only send clients on to HTTPS.
		passthrough := t.Mode == networking.ServerTLSSettings_PASSTHROUGH || t.Mode == networking.ServerTLSSettings_AUTO_PASSTHROUGH
		if !passthrough || t.CaCertificates != "" || t.PrivateKey != "" || t.ServerCertificate != "" {
			s.failAt(at, "tls", "a server for plain %s can't have TLS settings but httpsRedirect; use HTTPS", server.Port.Protocol)
		}
		return
	case !proto.tls:
		s.failAt(at, "tls", "a server for %s can't have TLS settings; use TLS or HTTPS", server.Port.Protocol)
		return
	}
	if t.HttpsRedirect {
		s.warnAt(at.key("tls"), "httpsRedirect", "has no effect but on HTTP servers")
	}
	s.tlsOptions(at.key("tls"), t)
}

// tlsOptions checks that a server's mode and its certificates go together.
func (s *subject) tlsOptions(at *place, t *networking.ServerTLSSettings) {
	pair := t.ServerCertificate != "" || t.PrivateKey != ""
	var sources []string
	for _, source := range []struct {
		name  string
		given bool
	}{
		{"serverCertificate", pair},
		{"credentialName", t.CredentialName != ""},
		{"credentialNames", len(t.CredentialNames) > 0},
		{"tlsCertificates", len(t.TlsCertificates) > 0},
	} {
		if source.given {
			sources = append(sources, source.name)
		}
	}
	switch t.Mode {
	case networking.ServerTLSSettings_ISTIO_MUTUAL:
		if len(sources) > 0 || t.CaCertificates != "" {
			s.failAt(at, "mode", "ISTIO_MUTUAL uses the proxy's own certificate; no other can be given")
		}
		return
	case networking.ServerTLSSettings_PASSTHROUGH, networking.ServerTLSSettings_AUTO_PASSTHROUGH:
		if len(sources) > 0 || t.CaCertificates != "" {
			s.warnAt(at, "mode", "%s doesn't end TLS, so certificates have no effect", t.Mode)
		}
		return
	}
	if len(sources) > 1 {
		s.failAt(at, sources[1], "can't be given together with %q", sources[0])
	}
	if t.CredentialName != "" || len(t.CredentialNames) > 0 {
		return // fetched as a whole
	}
	if t.Mode != networking.ServerTLSSettings_SIMPLE && t.CaCertificates == "" {
		s.failAt(at, "caCertificates", "is required for %s, to verify clients", t.Mode)
	}
	if len(t.TlsCertificates) == 0 {
		s.certificate(at, t.Mode, t.ServerCertificate, t.PrivateKey)
	}
	for i, c := range t.TlsCertificates {
		s.certificate(at.key("tlsCertificates").item(i), t.Mode, c.ServerCertificate, c.PrivateKey)
	}
}

func (s *subject) certificate(at *place, mode networking.ServerTLSSettings_TLSmode, cert, key string) {
	if cert == "" {
		s.failAt(at, "serverCertificate", "is required for %s", mode)
	}
	if key == "" {
		s.failAt(at, "privateKey", "is required for %s", mode)
	}
}

// scopedHost checks "namespace/host", in which the namespace may be "*" or ".". A
// gateway's host may also come alone or be an address.
func (s *subject) scopedHost(at *place, h string, gateway bool) {
	ns, name, ok := strings.Cut(h, "/")
	if !ok {
		if !gateway {
			s.failAt(at, "", `%q isn't of the form namespace/host, such as "./*" or "istio-system/*"`, clip(h))
			return
		}
		ns, name = "*", h
	}
	if !gateway {
		ns = strings.TrimPrefix(ns, "~") // leaves the namespace's hosts out; "~/*" alone means no host at all
	}
	if ns != "*" && ns != "." && badLabel(ns) != "" && (ns != "" || gateway || !strings.HasPrefix(h, "~")) {
		s.failAt(at, "", `in %q the part before the slash is neither "*", "." nor a namespace`, clip(h))
	}
	if name == "*" || gateway && isIP(name) {
		return
	}
	reason := badHost(name)
	if reason == "" {
		reason = partialWildcard(name)
	}
	if reason == "" && !strings.Contains(name, ".") {
		reason = "is a short name; write the whole name, or * for all"
	}
	if reason != "" {
		s.failAt(at, "", "%q %s", clip(name), reason)
	}
}
