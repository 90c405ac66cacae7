// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"math/rand/v2"

	"pillion/proxy/http"
	"pillion/proxy/match"
)

// Sampling decides which requests are recorded, where nobody before us has decided.
// Immutable.
type Sampling struct {
	// Client is of the requests with x-client-trace-id, Random of all, and Overall
	// is a bound on all that is recorded.
	Client, Random, Overall match.Fraction
	// NotByRequestID says that the number of a request ID decides nothing
	// (UuidRequestIdConfig.use_request_id_for_trace_sampling: false): every request is
	// recorded.
	NotByRequestID bool
	// NotPacked leaves request IDs as they are, and reads no decision in them
	// (pack_trace_reason: false).
	NotPacked bool
}

// Reason is why a request is recorded, or that it isn't.
type Reason uint8

// The reasons.
const (
	NotTraceable Reason = iota
	Sampled
	ServiceForced // by x-envoy-force-trace
	ClientForced  // by x-client-trace-id
)

const (
	// reasonPlace is where a request ID, a UUID of 36 characters, holds the reason:
	// the digit of its version.
	reasonPlace     = 14
	requestIDLength = 36
)

// reasonDigits are the digits for the reasons (Envoy: UUIDRequestIDExtension).
var reasonDigits = [...]byte{NotTraceable: '4', Sampled: '9', ServiceForced: 'a', ClientForced: 'b'}

// decide decides about a request, and writes the reason into its ID, so that the
// proxies behind us come to the same decision (Envoy:
// ConnectionManagerUtility::mutateTracingRequestHeader).
func (s *Sampling) decide(ex *http.Exchange) Reason {
	if s.NotByRequestID {
		return Sampled
	}
	fields := &ex.Req.Fields
	id, _ := fields.Get(http.HeaderXRequestID)
	number, ok := requestNumber(id)
	if !ok {
		return NotTraceable
	}
	was := NotTraceable
	if !s.NotPacked {
		was = reasonOf(id)
	}
	reason := was
	if reason == NotTraceable {
		switch {
		case fields.Has(http.HeaderXClientTraceID) && s.Client.Takes(rand.Uint64()):
			reason = ClientForced
		case fields.Has(http.HeaderXEnvoyForceTrace):
			reason = ServiceForced
		case s.Random.Takes(number):
			reason = Sampled
		}
	}
	if reason != NotTraceable && !s.Overall.Takes(number) {
		reason = NotTraceable
	}
	if reason != was && !s.NotPacked {
		SetReason(ex, reason)
	}
	return reason
}

// requestNumber is the number that a request ID begins with, which takes part in the
// lot; false without one.
func requestNumber(id []byte) (uint64, bool) {
	if len(id) < 8 {
		return 0, false
	}
	var n uint64
	for _, c := range id[:8] {
		d := hexValue(c, true)
		if d > 15 {
			return 0, false
		}
		n = n<<4 | uint64(d)
	}
	return n, true
}

func reasonOf(id []byte) Reason {
	if len(id) == requestIDLength {
		for r := Sampled; int(r) < len(reasonDigits); r++ {
			if id[reasonPlace] == reasonDigits[r] {
				return r
			}
		}
	}
	return NotTraceable
}

// SetReason writes a reason into the request's ID, if that is a UUID.
func SetReason(ex *http.Exchange, r Reason) {
	id, _ := ex.Req.Fields.Get(http.HeaderXRequestID)
	if len(id) != requestIDLength || id[reasonPlace] == reasonDigits[r] {
		return
	}
	id = ex.KeepBytes(id)
	id[reasonPlace] = reasonDigits[r]
	ex.Req.Fields.SetID(http.HeaderXRequestID, id)
}
