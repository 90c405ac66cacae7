// SPDX-License-Identifier: Apache-2.0

// Package renew is what the live sources of certificates share: how a renewal
// fares, as metrics and as log lines, and how long to wait after a failure.
package renew

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pillion/proxy/stats"
	"pillion/proxy/tls"
)

// Reason is why a renewal failed, from a short list, so that it can be a label.
type Reason string

// The reasons.
const (
	Unavailable Reason = "unavailable" // the source can't be reached, or broke off
	Slow        Reason = "slow"        // it is reached and doesn't answer
	Denied      Reason = "denied"      // it refuses us
	Invalid     Reason = "invalid"     // its answer is of no use
	Identity    Reason = "identity"    // its answer is for somebody else
	Local       Reason = "local"       // a file of ours is missing or wrong
)

// Error is a failure with its reason.
type Error struct {
	Reason Reason
	Err    error
}

// Error says what went wrong.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Because gives an error a reason; nil stays nil.
func Because(r Reason, err error) error {
	if err == nil {
		return nil
	}
	return &Error{r, err}
}

// ReasonOf returns why a renewal failed.
func ReasonOf(err error) Reason {
	var told *Error
	if errors.As(err, &told) {
		return told.Reason
	}
	var other *tls.IdentityError
	if errors.As(err, &other) {
		return Identity
	}
	s, ok := status.FromError(err)
	if !ok {
		return Invalid
	}
	switch s.Code() {
	case codes.DeadlineExceeded:
		return Slow
	case codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented, codes.FailedPrecondition, codes.NotFound:
		return Denied
	case codes.InvalidArgument, codes.OutOfRange, codes.DataLoss:
		return Invalid
	}
	return Unavailable
}

// Status is how the renewals of one source fare. It says each reason once in
// the log, however often the source is tried, until a renewal succeeds. Where
// a source gives several secrets, each has troubles of its own beside those of
// the source.
type Status struct {
	source string // immutable
	logger *slog.Logger

	mu       sync.Mutex
	updates  uint64            // guarded by mu
	failures map[Reason]uint64 // guarded by mu
	last     time.Time         // of the last success; guarded by mu
	// troubles are the failures since the last success, by secret; those of
	// the source itself are under "". Guarded by mu.
	troubles map[string]*trouble
}

type trouble struct {
	said map[Reason]bool
	last error
}

// NewStatus returns the status of a source, named as in metrics. A nil logger
// logs nothing.
func NewStatus(source string, logger *slog.Logger) *Status {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Status{source: source, logger: logger.With("source", source), failures: map[Reason]uint64{}, troubles: map[string]*trouble{}}
}

// Succeeded counts a renewal of a secret, "" if the source gives but one.
func (s *Status) Succeeded(secret string) {
	s.mu.Lock()
	before := len(s.troubles)
	delete(s.troubles, "")
	delete(s.troubles, secret)
	well := before > 0 && len(s.troubles) == 0
	s.updates++
	s.last = time.Now()
	s.mu.Unlock()
	if well {
		s.logger.Info("certificates are renewed again")
	}
}

// Failed counts a failure of a secret, or, for "", of the source.
func (s *Status) Failed(secret string, err error) {
	r := ReasonOf(err)
	s.mu.Lock()
	s.failures[r]++
	t := s.troubles[secret]
	if t == nil {
		t = &trouble{said: map[Reason]bool{}}
		s.troubles[secret] = t
	}
	said := t.said[r]
	t.said[r], t.last = true, err
	s.mu.Unlock()
	if !said {
		s.logger.Error("certificates can't be renewed; what was served is served on, and the source is asked again", "reason", string(r), "error", err)
	}
}

// Snapshot is a Status at one time.
type Snapshot struct {
	Source      string
	Updates     uint64
	Failures    map[Reason]uint64
	LastSuccess time.Time // zero: none yet
	LastError   error     // one that no success has followed
}

// Snapshot returns the counts as they are now.
func (s *Status) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := Snapshot{Source: s.source, Updates: s.updates, Failures: maps.Clone(s.failures), LastSuccess: s.last}
	for _, secret := range slices.Sorted(maps.Keys(s.troubles)) {
		now.LastError = s.troubles[secret].last
	}
	return now
}

// CollectStats reports the counts (stats.Source).
func (s *Status) CollectStats(e *stats.Emitter) {
	now := s.Snapshot()
	label := stats.Label{Name: "source", Value: now.Source}
	own := func(name, unit string, kind stats.Kind, v float64, more ...stats.Label) {
		e.Emit(stats.Metric{Name: "certificate_source." + now.Source + "." + name, Prom: "pillion_certificate_source_" + unit, Raw: true, Kind: kind,
			Labels: append([]stats.Label{label}, more...), Value: v})
	}
	own("updates", "updates_total", stats.KindCounter, float64(now.Updates))
	for _, r := range slices.Sorted(maps.Keys(now.Failures)) {
		own("failures."+string(r), "failures_total", stats.KindCounter, float64(now.Failures[r]), stats.Label{Name: "reason", Value: string(r)})
	}
	if !now.LastSuccess.IsZero() {
		own("last_success_unix_time_seconds", "last_success_timestamp_seconds", stats.KindGauge, float64(now.LastSuccess.Unix()))
	}
}
