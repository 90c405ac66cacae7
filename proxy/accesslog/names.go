// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"strconv"

	"pillion/proxy/http"
)

// longFlags are the names of RESPONSE_FLAGS_LONG, in the order of Envoy
// (source/common/stream_info/utility.h). Read-only.
var longFlags = [...]struct {
	flag http.Flags
	name string
}{
	{http.FlagFailedLocalHealthCheck, "FailedLocalHealthCheck"},
	{http.FlagNoHealthyUpstream, "NoHealthyUpstream"},
	{http.FlagUpstreamRequestTimeout, "UpstreamRequestTimeout"},
	{http.FlagLocalReset, "LocalReset"},
	{http.FlagUpstreamRemoteReset, "UpstreamRemoteReset"},
	{http.FlagUpstreamConnFailure, "UpstreamConnectionFailure"},
	{http.FlagUpstreamConnTermination, "UpstreamConnectionTermination"},
	{http.FlagUpstreamOverflow, "UpstreamOverflow"},
	{http.FlagNoRoute, "NoRouteFound"},
	{http.FlagDelayInjected, "DelayInjected"},
	{http.FlagFaultInjected, "FaultInjected"},
	{http.FlagRateLimited, "RateLimited"},
	{http.FlagUnauthorizedExternal, "UnauthorizedExternalService"},
	{http.FlagRateLimitServiceError, "RateLimitServiceError"},
	{http.FlagDownstreamConnTermination, "DownstreamConnectionTermination"},
	{http.FlagUpstreamRetryLimitExceeded, "UpstreamRetryLimitExceeded"},
	{http.FlagStreamIdleTimeout, "StreamIdleTimeout"},
	{http.FlagInvalidEnvoyHeaders, "InvalidEnvoyRequestHeaders"},
	{http.FlagDownstreamProtocolError, "DownstreamProtocolError"},
	{http.FlagUpstreamMaxStreamDuration, "UpstreamMaxStreamDurationReached"},
	{http.FlagNoFilterConfig, "NoFilterConfigFound"},
	{http.FlagDurationTimeout, "DurationTimeout"},
	{http.FlagUpstreamProtocolError, "UpstreamProtocolError"},
	{http.FlagNoCluster, "NoClusterFound"},
	{http.FlagOverloadManager, "OverloadManagerTerminated"},
	{http.FlagDNSFailure, "DnsResolutionFailed"},
}

func appendLongFlags(dst []byte, flags http.Flags) []byte {
	if flags == 0 {
		return append(dst, '-')
	}
	first := true
	for i := range longFlags {
		if flags&longFlags[i].flag == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, longFlags[i].name...)
	}
	return dst
}

// grpcNames are the names of gRPC's status codes by number, in Envoy's two
// spellings. Read-only.
var grpcNames = [...][2]string{
	{"OK", "OK"}, {"Canceled", "CANCELLED"}, {"Unknown", "UNKNOWN"}, {"InvalidArgument", "INVALID_ARGUMENT"},
	{"DeadlineExceeded", "DEADLINE_EXCEEDED"}, {"NotFound", "NOT_FOUND"}, {"AlreadyExists", "ALREADY_EXISTS"},
	{"PermissionDenied", "PERMISSION_DENIED"}, {"ResourceExhausted", "RESOURCE_EXHAUSTED"},
	{"FailedPrecondition", "FAILED_PRECONDITION"}, {"Aborted", "ABORTED"}, {"OutOfRange", "OUT_OF_RANGE"},
	{"Unimplemented", "UNIMPLEMENTED"}, {"Internal", "INTERNAL"}, {"Unavailable", "UNAVAILABLE"},
	{"DataLoss", "DATA_LOSS"}, {"Unauthenticated", "UNAUTHENTICATED"},
}

func appendGRPCStatus(dst []byte, n int64, snake bool) []byte {
	if n < 0 || n >= int64(len(grpcNames)) {
		return strconv.AppendInt(dst, n, 10)
	}
	if snake {
		return append(dst, grpcNames[n][1]...)
	}
	return append(dst, grpcNames[n][0]...)
}

// grpcStatus returns the status of a gRPC exchange: from the trailers, from
// the head when there was nothing but trailers, else what gRPC makes of HTTP's.
// Unlike in metrics a code may be one that gRPC doesn't know (Envoy:
// Grpc::Common::getGrpcStatus with allow_user_defined).
func grpcStatus(ex *http.Exchange) (int64, bool) {
	if !ex.GRPC {
		return 0, false
	}
	var v []byte
	if ex.RespTrailers != nil {
		v, _ = ex.RespTrailers.Get(http.HeaderGRPCStatus)
	}
	if len(v) == 0 {
		v, _ = ex.Resp.Fields.Get(http.HeaderGRPCStatus)
	}
	switch {
	case len(v) == 0 && ex.Resp.Status == 0:
		return 0, false
	case len(v) == 0:
		return int64(http.GRPCOfHTTP(ex.Resp.Status)), true
	case len(v) > 9:
		return int64(http.GRPCInvalid), true
	}
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			return int64(http.GRPCInvalid), true
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
