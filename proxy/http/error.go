// SPDX-License-Identifier: Apache-2.0

package http

// Side tells where an error came from.
type Side uint8

// The sides of an exchange.
const (
	SideLocal Side = iota
	SideDownstream
	SideUpstream
)

// RetryRule tells whether a failed attempt may be made again.
type RetryRule uint8

// The rules, from strictest to loosest.
const (
	// RetryNever: the application may have acted on the request.
	RetryNever RetryRule = iota
	// RetryByPolicy: only when the route's policy names this kind of failure.
	RetryByPolicy
	// RetryAlways: it is certain that no application saw the request; the
	// proxy repeats it by itself (RFC 9110 section 9.2.2, RFC 9113 section 8.7).
	RetryAlways
)

// Kind classifies a failure for retry policies and outlier detection.
type Kind uint8

// The kinds.
const (
	KindNone Kind = iota
	KindProtocol
	KindConnectFailure
	KindConnectTimeout
	KindReset            // upstream closed or reset before or within the response
	KindRefused          // the stream was refused before it was processed
	KindTimeout          // the request's or one try's time ran out
	KindOverflow         // a circuit breaker is open
	KindNoHealthy        // no host could be chosen
	KindNoRoute          // no route, or a cluster that doesn't exist
	KindClientGone       // downstream went away
	KindInjected         // fault injection
	KindPayload          // a body that breaks its framing
	KindDraining         // the proxy is shutting down
	KindUnsupported      // something the proxy does not speak
	KindDirect           // a reply that configuration asks for; not a failure
	KindIdleTimeout      // nothing moved for the idle time
	KindMaxDuration      // the stream or connection was too old
	KindPolicy           // refused by a policy
	KindPoolReset        // a connection was lost between two requests
	KindTooLarge         // a limit on size was passed
	KindResolve          // the host's name could not be resolved
	KindUpstreamProtocol // the upstream broke the protocol
	KindStreamReset      // the upstream reset the stream, not the connection
)

// Error is a failed exchange: the local reply, the access log, the metrics
// and the retry decision are all made from it. Values are immutable; most
// are package variables so that failing costs no allocation.
type Error struct {
	Side   Side
	Kind   Kind
	Retry  RetryRule
	Status int    // of the local reply; 0 closes without one
	Flag   Flags  // Envoy's response flag
	Detail string // Envoy's %RESPONSE_CODE_DETAILS%
	Body   string // of the local reply
	// Close asks that the downstream connection be closed after the reply.
	Close bool
	// Transport says in Envoy's words why no connection could be made, for
	// %UPSTREAM_TRANSPORT_FAILURE_REASON%; empty for all other failures.
	Transport string
	// GRPC is the status of a gRPC local reply; 0 is what stands for the HTTP
	// status. See GRPCStatus.
	GRPC int
}

// GRPCStatus is the status of a gRPC local reply that would be status in plain
// HTTP. Only an injected fault can mean OK.
func (e *Error) GRPCStatus(status int) GRPCCode {
	if e.GRPC != 0 || e.Kind == KindInjected && status == 200 {
		return GRPCCode(e.GRPC)
	}
	return GRPCOfHTTP(status)
}

// Error returns the detail, which names the failure in Envoy's words.
func (e *Error) Error() string { return e.Detail }
