// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"
	"strings"
	"time"

	"pillion/proxy/http"
)

// RetryOn is a set of reasons to repeat a failed try.
type RetryOn uint32

// The reasons, by their names in Envoy's retry_on.
const (
	RetryOn5xx RetryOn = 1 << iota
	RetryOnGatewayError
	RetryOnReset
	RetryOnResetBeforeRequest
	RetryOnConnectFailure
	RetryOnRefusedStream
	RetryOnRetriable4xx
	RetryOnRetriableStatusCodes
	RetryOnEnvoyRatelimited
	RetryOnGRPCCancelled
	RetryOnGRPCDeadlineExceeded
	RetryOnGRPCInternal
	RetryOnGRPCResourceExhausted
	RetryOnGRPCUnavailable
)

var retryOnNames = [...]string{"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream",
	"retriable-4xx", "retriable-status-codes", "envoy-ratelimited", "cancelled", "deadline-exceeded", "internal",
	"resource-exhausted", "unavailable"}

// ParseRetryOn reads a comma-separated list of reasons. unknown are the words
// that are none, which Envoy passes over.
func ParseRetryOn(s string) (on RetryOn, unknown []string) {
words:
	for word := range strings.SplitSeq(s, ",") {
		word = strings.TrimSpace(word)
		for i, name := range retryOnNames {
			if word == name {
				on |= 1 << i
				continue words
			}
		}
		if word != "" {
			unknown = append(unknown, word)
		}
	}
	return on, unknown
}

// String returns the list that ParseRetryOn reads.
func (on RetryOn) String() string {
	var words []string
	for i, name := range retryOnNames {
		if on&(1<<i) != 0 {
			words = append(words, name)
		}
	}
	return strings.Join(words, ",")
}

// RetryPolicy says which failed tries are repeated, and how. Immutable.
type RetryPolicy struct {
	On RetryOn
	// StatusCodes are those of RetryOnRetriableStatusCodes.
	StatusCodes []int
	// NumRetries bounds the repeats, not counting the first try.
	NumRetries uint32
	// PerTryTimeout bounds each try; 0 does not.
	PerTryTimeout time.Duration
	// BackoffBase and BackoffMax bound the random wait before a repeat; 0 is
	// Envoy's default of 25 ms and ten times the base.
	BackoffBase, BackoffMax time.Duration
	// AvoidPreviousHosts asks for a host that was not tried before, and
	// HostAttempts how often to choose again for it.
	AvoidPreviousHosts bool
	HostAttempts       int
	// AvoidPreviousPriorities, unless 0, leaves out priorities tried before,
	// looked at anew after that many tries.
	AvoidPreviousPriorities int
}

const defaultBackoffBase = 25 * time.Millisecond

// BackOff returns the base and the limit of the wait before a repeat.
func (p *RetryPolicy) BackOff() (base, limit time.Duration) {
	base, limit = p.BackoffBase, p.BackoffMax
	if base == 0 {
		base = defaultBackoffBase
	}
	if limit == 0 {
		limit = 10 * base
	}
	return base, limit
}

// RetryError reports whether the policy repeats a try that failed without a
// response. The caller has made sure that it safely can be. The end of the
// whole request's time is not to be asked about: nothing is left to retry in.
func (p *RetryPolicy) RetryError(err *http.Error) bool {
	// Any upstream reset counts as a 5xx, since it would become one (Envoy:
	// RetryStateImpl::wouldRetryFromReset).
	const anyReset = RetryOnReset | RetryOn5xx | RetryOnGatewayError
	switch err.Kind {
	case http.KindConnectFailure, http.KindConnectTimeout:
		return p.On&(anyReset|RetryOnConnectFailure|RetryOnResetBeforeRequest) != 0
	case http.KindPoolReset:
		// The host had closed the connection before it saw the request.
		return p.On&(anyReset|RetryOnResetBeforeRequest) != 0
	case http.KindRefused:
		return p.On&(anyReset|RetryOnRefusedStream) != 0
	case http.KindReset, http.KindStreamReset, http.KindUpstreamProtocol, http.KindTimeout:
		return p.On&anyReset != 0
	}
	// What is left is a full breaker, no healthy host, or not the upstream's
	// failure; Envoy repeats none of these.
	return false
}

// RetryResponse reports whether the policy drops a response for another try.
// Only the head counts. gRPC puts its status there when nothing but trailers
// is sent, and like Envoy we look there whatever kind of request it was.
func (p *RetryPolicy) RetryResponse(h *http.ResponseHead) bool {
	// Another Envoy's rate limit counts as that, whatever its status is.
	if h.Fields.Has(http.HeaderXEnvoyRatelimited) {
		return p.On&RetryOnEnvoyRatelimited != 0
	}
	if p.retryStatus(h.Status) {
		return true
	}
	const grpc = RetryOnGRPCCancelled | RetryOnGRPCDeadlineExceeded | RetryOnGRPCInternal |
		RetryOnGRPCResourceExhausted | RetryOnGRPCUnavailable
	if p.On&grpc == 0 {
		return false
	}
	code, ok := h.Fields.GRPCStatus()
	return ok && p.On&retryOnGRPC(code) != 0
}

func (p *RetryPolicy) retryStatus(status int) bool {
	switch {
	case p.On&RetryOn5xx != 0 && status >= 500 && status <= 599,
		p.On&RetryOnGatewayError != 0 && status >= 502 && status <= 504,
		p.On&RetryOnRetriable4xx != 0 && status == 409:
		return true
	}
	if p.On&RetryOnRetriableStatusCodes != 0 {
		for _, code := range p.StatusCodes {
			if status == code {
				return true
			}
		}
	}
	return false
}

// retryOnGRPC returns the reason that a code is, 0 for none.
func retryOnGRPC(code http.GRPCCode) RetryOn {
	switch code {
	case http.GRPCCancelled:
		return RetryOnGRPCCancelled
	case http.GRPCDeadlineExceeded:
		return RetryOnGRPCDeadlineExceeded
	case http.GRPCResourceExhausted:
		return RetryOnGRPCResourceExhausted
	case http.GRPCInternal:
		return RetryOnGRPCInternal
	case http.GRPCUnavailable:
		return RetryOnGRPCUnavailable
	}
	return 0
}

// String describes the policy.
func (p *RetryPolicy) String() string {
	s := fmt.Sprintf("%d retries on %s", p.NumRetries, p.On)
	if len(p.StatusCodes) > 0 {
		s += fmt.Sprintf(" %v", p.StatusCodes)
	}
	if p.PerTryTimeout > 0 {
		s += fmt.Sprintf(", %v a try", p.PerTryTimeout)
	}
	return s
}
