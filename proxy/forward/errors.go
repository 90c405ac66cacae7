// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"strings"

	"pillion/proxy/http"
)

// The failures that the forwarder finds itself. Status, flag, detail and body
// are Envoy's (source/common/router/router.cc, source/common/stream_info/…).
var (
	errNoCluster = &http.Error{Side: http.SideLocal, Kind: http.KindNoRoute, Status: 503, Flag: http.FlagNoCluster,
		Detail: "cluster_not_found"}
	errNoHealthy = &http.Error{Side: http.SideUpstream, Kind: http.KindNoHealthy, Status: 503, Flag: http.FlagNoHealthyUpstream,
		Detail: "no_healthy_upstream", Body: "no healthy upstream", GRPC: 14}
	errOverflow = &http.Error{Side: http.SideUpstream, Kind: http.KindOverflow, Status: 503, Flag: http.FlagUpstreamOverflow,
		Detail: "upstream_reset_before_response_started{overflow}",
		Body:   "upstream connect error or disconnect/reset before headers. reset reason: overflow", GRPC: 14}
	errTimeout = &http.Error{Side: http.SideUpstream, Kind: http.KindTimeout, Retry: http.RetryNever, Status: 504,
		Flag: http.FlagUpstreamRequestTimeout, Detail: "response_timeout", Body: "upstream request timeout", GRPC: 14}
	// errDeadline is errTimeout where the client itself set the time, as gRPC's
	// do: UNAVAILABLE, which Envoy answers, would make it try again.
	errDeadline = &http.Error{Side: http.SideUpstream, Kind: http.KindTimeout, Retry: http.RetryNever, Status: 504,
		Flag: http.FlagUpstreamRequestTimeout, Detail: "response_timeout", Body: "upstream request timeout", GRPC: 4}
	errTryTimeout = &http.Error{Side: http.SideUpstream, Kind: http.KindTimeout, Retry: http.RetryByPolicy, Status: 504,
		Flag: http.FlagUpstreamRequestTimeout, Detail: "upstream_per_try_timeout", Body: "upstream request timeout", GRPC: 14}
	errLateResponse = &http.Error{Side: http.SideUpstream, Kind: http.KindTimeout, Retry: http.RetryNever,
		Flag: http.FlagUpstreamRequestTimeout, Detail: "upstream_response_timeout", Close: true}
	// errMaxDuration is the end of the time of a whole exchange. Nobody's
	// fault, it is laid at nobody's door.
	errMaxDuration = &http.Error{Side: http.SideLocal, Kind: http.KindMaxDuration, Retry: http.RetryNever, Status: 504,
		Detail: "max_duration_timeout", Body: "downstream duration timeout", GRPC: 4}
	// errMaxUpload is the same while the request is still coming.
	errMaxUpload = &http.Error{Side: http.SideLocal, Kind: http.KindMaxDuration, Retry: http.RetryNever, Status: 408,
		Detail: "max_duration_timeout", Body: "downstream duration timeout", GRPC: 4, Close: true}
	errCancelled = &http.Error{Side: http.SideDownstream, Kind: http.KindClientGone,
		Flag: http.FlagDownstreamConnTermination, Detail: "downstream_remote_disconnect", Close: true}
	// errUpstreamBroken: the host broke the rules of the protocol.
	errUpstreamBroken = &http.Error{Side: http.SideUpstream, Kind: http.KindUpstreamProtocol, Retry: http.RetryByPolicy, Status: 502,
		Flag: http.FlagUpstreamProtocolError, Detail: "upstream_reset_before_response_started{protocol_error}",
		Body: "upstream connect error or disconnect/reset before headers. reset reason: protocol error", GRPC: 14}
	errUnaskedUpgrade = &http.Error{Side: http.SideUpstream, Kind: http.KindUpstreamProtocol, Status: 502,
		Flag: http.FlagUpstreamProtocolError, Detail: "upstream_reset_before_response_started{protocol_error}",
		Body: "upstream connect error or disconnect/reset before headers. reset reason: protocol error", GRPC: 14}
)

// noCluster is the failure of a route whose cluster doesn't exist. status is
// the route's own answer to that, 0 for the default.
func noCluster(status int) *http.Error {
	if status == 0 || status == errNoCluster.Status {
		return errNoCluster
	}
	e := *errNoCluster
	e.Status = status
	return &e
}

// resetReply words the local reply and the details of a connection that could
// not be made or was lost before a response, as Envoy's router does: the
// reason and whether tries were made before. What the socket said is for the
// details only: it is nothing for a client to know.
func resetReply(reason, failure string, retried bool) (body, detail string) {
	var b strings.Builder
	b.WriteString("upstream connect error or disconnect/reset before headers. ")
	if retried {
		b.WriteString("retried and the latest ")
	}
	b.WriteString("reset reason: ")
	b.WriteString(reason)
	detail = "upstream_reset_before_response_started{" + strings.ReplaceAll(reason, " ", "_")
	if failure != "" {
		detail += "|" + strings.ReplaceAll(failure, " ", "_")
	}
	return b.String(), detail + "}"
}

// resetReason is Envoy's name for how an upstream stream was lost
// (Http::Utility::resetReasonToString); empty for failures that aren't such.
func resetReason(err *http.Error) string {
	if err.Side == http.SideDownstream {
		return ""
	}
	switch err.Kind {
	case http.KindConnectFailure:
		return "remote connection failure"
	case http.KindConnectTimeout:
		return "connection timeout"
	case http.KindReset, http.KindPoolReset:
		return "connection termination"
	case http.KindStreamReset:
		return "remote reset"
	case http.KindRefused:
		return "remote refused stream reset"
	case http.KindOverflow:
		return "overflow"
	case http.KindUpstreamProtocol:
		return "protocol error"
	}
	return ""
}
