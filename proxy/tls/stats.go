// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"pillion/proxy/stats"
)

// Stats count the handshakes of one listener or cluster, under Envoy's names
// (source/common/tls/stats.h).
type Stats struct {
	handshake, connectionError, noCertificate        stats.Counter
	failNoCert, failError, failSAN, failHash, reused stats.Counter
	// notReady are handshakes before a secret had come; unfinished are those
	// whose time was over or whose peer went away.
	notReady, unfinished stats.Counter
	// client tells whose counters these are, for a name that Envoy gives both
	// sides otherwise.
	client atomic.Bool

	mu       sync.Mutex
	settings map[string]uint64 // "versions.TLSv1.3" and the like; guarded by mu
}

// failed counts a failed handshake.
func (s *Stats) failed(err *Error) {
	switch err.Kind {
	case KindNotReady:
		s.notReady.Inc()
		return
	case KindNoCert:
		s.failNoCert.Inc()
	case KindVerify:
		s.failError.Inc()
	case KindSAN:
		s.failSAN.Inc()
	case KindHash:
		s.failHash.Inc()
	case KindTimeout:
		s.unfinished.Inc()
		return
	case KindProtocol:
	}
	s.connectionError.Inc()
}

// settled counts a handshake that succeeded.
func (s *Stats) settled(c *Conn) {
	s.handshake.Inc()
	if c.info.Resumed {
		s.reused.Inc()
	}
	if c.info.Peer == nil {
		s.noCertificate.Inc()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settings == nil {
		s.settings = map[string]uint64{}
	}
	s.settings["versions."+c.info.Version]++
	s.settings["ciphers."+c.info.CipherSuite]++
	if c.curve != 0 {
		s.settings["curves."+curveName(c.curve)]++
	}
}

// Report writes the counters into the scope of a listener or of a cluster.
func (s *Stats) Report(sc stats.Scope) {
	sc.Counter("ssl.handshake", s.handshake.Value())
	sc.Counter("ssl.connection_error", s.connectionError.Value())
	sc.Counter("ssl.no_certificate", s.noCertificate.Value())
	sc.Counter("ssl.fail_verify_no_cert", s.failNoCert.Value())
	sc.Counter("ssl.fail_verify_error", s.failError.Value())
	sc.Counter("ssl.fail_verify_san", s.failSAN.Value())
	sc.Counter("ssl.fail_verify_cert_hash", s.failHash.Value())
	sc.Counter("ssl.session_reused", s.reused.Value())
	sc.Counter("ssl.handshake_unfinished", s.unfinished.Value())
	if s.client.Load() {
		sc.Counter("client_ssl_socket_factory.upstream_context_secrets_not_ready", s.notReady.Value())
	} else {
		sc.Counter("server_ssl_socket_factory.downstream_context_secrets_not_ready", s.notReady.Value())
	}
	s.mu.Lock()
	settings := maps.Clone(s.settings)
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		sc.Counter("ssl."+name, settings[name])
	}
}
