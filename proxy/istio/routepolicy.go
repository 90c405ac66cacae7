// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"math"
	nethttp "net/http"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// defaultRetryOn is what istiod retries where a VirtualService doesn't say: failures
// in which the request hasn't been processed.
const defaultRetryOn = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"

// retryPolicies holds the policies that most routes share.
type retryPolicies struct {
	standard  *routev3.RetryPolicy
	hashed    *routev3.RetryPolicy // with a hash policy, which would choose the same host again
	otherHost []*routev3.RetryPolicy_RetryHostPredicate
}

func newRetryPolicies() *retryPolicies {
	r := &retryPolicies{otherHost: []*routev3.RetryPolicy_RetryHostPredicate{{
		Name: "envoy.retry_host_predicates.previous_hosts",
		ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
			TypedConfig: pack(&previoushostsv3.PreviousHostsPredicate{}),
		},
	}}}
	r.standard, r.hashed = r.make(false), r.make(true)
	return r
}

func (r *retryPolicies) make(hashed bool) *routev3.RetryPolicy {
	p := &routev3.RetryPolicy{
		RetryOn:                       defaultRetryOn,
		NumRetries:                    wrapperspb.UInt32(2),
		HostSelectionRetryMaxAttempts: 5,
	}
	if !hashed {
		p.RetryHostPredicate = r.otherHost
	}
	return p
}

// of converts a VirtualService's retries; nil is the default policy. Zero attempts is
// no policy at all.
func (r *retryPolicies) of(in *networking.HTTPRetry, hashed bool) *routev3.RetryPolicy {
	switch {
	case in == nil && hashed:
		return r.hashed
	case in == nil:
		return r.standard
	case in.Attempts <= 0:
		return nil
	}
	out := r.make(hashed)
	out.NumRetries = wrapperspb.UInt32(uint32(in.Attempts))
	out.PerTryTimeout = in.PerTryTimeout
	if in.RetryOn != "" {
		out.RetryOn, out.RetriableStatusCodes = splitRetryOn(in.RetryOn)
	}
	if in.RetryIgnorePreviousHosts != nil {
		out.RetryHostPredicate = nil
		if in.RetryIgnorePreviousHosts.Value {
			out.RetryHostPredicate = r.otherHost
		}
	}
	if in.RetryRemoteLocalities.GetValue() {
		out.RetryPriority = &routev3.RetryPolicy_RetryPriority{
			Name: "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
				TypedConfig: pack(&previousprioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: 2}),
			},
		}
	}
	if in.Backoff != nil {
		out.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: in.Backoff}
	}
	return out
}

// splitRetryOn takes status codes out of a retryOn list, where Istio allows them
// among Envoy's conditions.
func splitRetryOn(list string) (string, []uint32) {
	var conditions []string
	var statuses []uint32
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if n, err := strconv.Atoi(part); err == nil && nethttp.StatusText(n) != "" {
			statuses = append(statuses, uint32(n))
		} else if part != "" {
			conditions = append(conditions, part)
		}
	}
	if len(statuses) > 0 && !slices.Contains(conditions, "retriable-status-codes") {
		conditions = append(conditions, "retriable-status-codes")
	}
	return strings.Join(conditions, ","), statuses
}

// percent converts Istio's percentage, of which Envoy keeps four decimals. Rounding
// makes 0.29 what it says; its product with 10000 is a little less than 2900.
func percent(p *networking.Percent) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{
		Numerator:   uint32(math.Round(p.GetValue() * 10000)),
		Denominator: typev3.FractionalPercent_MILLION,
	}
}

func wholePercent(n uint32) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: n, Denominator: typev3.FractionalPercent_HUNDRED}
}

// faultOf converts a fault injection; nil when there is nothing that can be injected.
func faultOf(in *networking.HTTPFaultInjection) *faultv3.HTTPFault {
	out := &faultv3.HTTPFault{}
	if d := in.GetDelay(); d != nil && d.GetFixedDelay() != nil {
		out.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: d.GetFixedDelay()},
			//lint:ignore SA1019 deprecated, and still part of the API
			Percentage: wholePercent(uint32(d.Percent)),
		}
		if d.Percentage != nil {
			out.Delay.Percentage = percent(d.Percentage)
		}
	}
	if a := in.GetAbort(); a != nil {
		abort := &faultv3.FaultAbort{}
		if a.Percentage != nil {
			abort.Percentage = percent(a.Percentage)
		}
		switch t := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			abort.ErrorType = &faultv3.FaultAbort_HttpStatus{HttpStatus: uint32(t.HttpStatus)}
			out.Abort = abort
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			abort.ErrorType = &faultv3.FaultAbort_GrpcStatus{GrpcStatus: grpcStatus(t.GrpcStatus)}
			out.Abort = abort
		}
	}
	if out.Delay == nil && out.Abort == nil {
		return nil
	}
	return out
}

// grpcStatus reads a gRPC status by its name in the protocol, e.g. "NOT_FOUND".
func grpcStatus(name string) uint32 {
	code := codes.Unknown
	// A name that there isn't was refused when the resource was read.
	_ = code.UnmarshalJSON([]byte(strconv.Quote(name)))
	return uint32(code)
}

// corsOf converts a CORS policy.
func corsOf(in *networking.CorsPolicy) *corsv3.CorsPolicy {
	out := &corsv3.CorsPolicy{
		AllowMethods:     strings.Join(in.AllowMethods, ","),
		AllowHeaders:     strings.Join(in.AllowHeaders, ","),
		ExposeHeaders:    strings.Join(in.ExposeHeaders, ","),
		AllowCredentials: in.AllowCredentials,
		FilterEnabled:    &corev3.RuntimeFractionalPercent{DefaultValue: wholePercent(100)},
		ForwardNotMatchingPreflights: wrapperspb.Bool(
			in.UnmatchedPreflights != networking.CorsPolicy_IGNORE),
	}
	for _, m := range in.AllowOrigins {
		if s := stringMatch(m); s != nil {
			out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, s)
		}
	}
	if in.AllowOrigins == nil {
		//lint:ignore SA1019 deprecated, and still part of the API
		for _, o := range in.AllowOrigin {
			out.AllowOriginStringMatch = append(out.AllowOriginStringMatch,
				&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: o}})
		}
	}
	if in.MaxAge != nil {
		out.MaxAge = strconv.FormatInt(in.MaxAge.Seconds, 10)
	}
	return out
}

// hashPolicy converts the key of a consistent hash; nil when there is none.
func hashPolicy(in *networking.LoadBalancerSettings_ConsistentHashLB) *routev3.RouteAction_HashPolicy {
	switch key := in.GetHashKey().(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{
			Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: key.HttpHeaderName},
		}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		c := &routev3.RouteAction_HashPolicy_Cookie{
			Name: key.HttpCookie.GetName(), Ttl: key.HttpCookie.GetTtl(), Path: key.HttpCookie.GetPath(),
		}
		for _, a := range key.HttpCookie.GetAttributes() {
			c.Attributes = append(c.Attributes, &routev3.RouteAction_HashPolicy_CookieAttribute{Name: a.GetName(), Value: a.GetValue()})
		}
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Cookie_{Cookie: c}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: key.UseSourceIp},
		}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: key.HttpQueryParameterName},
		}}
	}
	return nil
}
