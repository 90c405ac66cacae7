// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/x509"
	"math"
	"time"

	"pillion/proxy/stats"
)

// Status is what a secret holds and how its renewal goes.
type Status struct {
	Name string
	// Source is where the content came from, empty before it came; Updated is
	// when.
	Source  string
	Updated time.Time
	// Chain is the certificate, the leaf first; Anchors are trust anchors.
	Chain, Anchors []*x509.Certificate
	// Updates and Failures count; LastError is why the last renewal failed,
	// empty since one succeeded.
	Updates, Failures uint64
	LastError         string
	FailedAt          time.Time
}

// Status tells how the secret stands.
func (s *Secret) Status() Status {
	s.mu.Lock()
	st := Status{Name: s.name, Updates: s.updates, Failures: s.failures, LastError: s.lastErr, FailedAt: s.failedAt}
	s.mu.Unlock()
	m := s.now.Load()
	if m == nil {
		return st
	}
	if a := m.anchors; a != nil {
		st.Anchors, st.Source, st.Updated = a.certs, a.source, a.loaded
	}
	if p := m.pair; p != nil {
		st.Chain = append([]*x509.Certificate{p.leaf}, p.issuer...)
		st.Source, st.Updated = p.source, p.loaded
	}
	return st
}

// Expires returns when the first certificate of the chain, or the first
// anchor, is over; false if there is none.
func (st *Status) Expires() (first time.Time, ok bool) {
	for _, list := range [][]*x509.Certificate{st.Chain, st.Anchors} {
		for _, c := range list {
			if !ok || c.NotAfter.Before(first) {
				first, ok = c.NotAfter, true
			}
		}
	}
	return first, ok
}

// CollectStats reports the state of every secret (stats.Source). The names
// below server. are Envoy's; the others are ours, with the secret as a label.
func (s *Secrets) CollectStats(e *stats.Emitter) {
	now := time.Now()
	// Envoy says the greatest number there is if no certificate is loaded.
	days := int64(math.MaxUint32)
	for _, secret := range s.All() {
		st := secret.Status()
		emit := func(name, unit string, kind stats.Kind, v float64) {
			e.Emit(stats.Metric{Name: "secret." + st.Name + "." + name, Prom: "pillion_secret_" + unit, Raw: true, Kind: kind, Value: v,
				Labels: []stats.Label{{Name: "secret", Value: st.Name}, {Name: "source", Value: st.Source}}})
		}
		emit("updates", "updates_total", stats.KindCounter, float64(st.Updates))
		emit("failures", "failures_total", stats.KindCounter, float64(st.Failures))
		until, ok := st.Expires()
		if !ok {
			continue
		}
		days = min(days, max(0, int64(until.Sub(now)/(24*time.Hour))))
		emit("expiration_unix_time_seconds", "expiration_timestamp_seconds", stats.KindGauge, float64(until.Unix()))
		emit("updated_unix_time_seconds", "updated_timestamp_seconds", stats.KindGauge, float64(st.Updated.Unix()))
	}
	e.Gauge("server.days_until_first_cert_expiring", "", days)
}
