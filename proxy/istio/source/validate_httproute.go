// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// httpRoute checks one HTTP route; delegate says that its VirtualService has no hosts.
func (s *subject) httpRoute(at *place, r *networking.HTTPRoute, delegate bool) {
	s.httpAction(at, r, delegate)
	for i, m := range r.Match {
		s.httpMatch(at.key("match").item(i), m)
	}
	s.checkHeaders(at, r.Headers)
	s.httpDestinations(at, r.Route)
	s.httpRedirect(at.key("redirect"), r)
	s.directResponse(at.key("directResponse"), r.DirectResponse)
	s.httpRewrite(at, r)
	s.checkDuration(at, "timeout", r.Timeout)
	s.httpRetry(at.key("retries"), r.Retries)
	s.httpFault(at.key("fault"), r.Fault)
	s.httpMirrors(at, r)
	s.corsPolicy(at.key("corsPolicy"), r.CorsPolicy)
}

// httpAction checks that a route does exactly one thing with a request.
func (s *subject) httpAction(at *place, r *networking.HTTPRoute, delegate bool) {
	first := ""
	for _, action := range []struct {
		name  string
		given bool
	}{
		{"redirect", r.Redirect != nil},
		{"directResponse", r.DirectResponse != nil},
		{"delegate", r.Delegate != nil},
		{"route", len(r.Route) > 0},
	} {
		switch {
		case !action.given:
		case first != "":
			s.failAt(at, action.name, "can't be given together with %q", first)
		default:
			first = action.name
		}
	}
	switch {
	case first == "":
		s.failAt(at, "", "needs one of route, redirect, directResponse or delegate")
	case first == "delegate" && delegate:
		s.failAt(at, "delegate", "a VirtualService without hosts is a delegate itself and can't delegate")
	case first == "delegate" && r.Delegate.Name == "":
		s.failAt(at.key("delegate"), "name", "is required")
	case first == "redirect" || first == "directResponse":
		if r.Fault != nil {
			s.failAt(at, "fault", "can't be given together with %q", first)
		}
		if r.Rewrite != nil {
			s.failAt(at, "rewrite", "can't be given together with %q", first)
		}
	}
}

func (s *subject) httpMatch(at *place, m *networking.HTTPMatchRequest) {
	s.checkMatch(at.key("uri"), m.Uri, true)
	s.checkMatch(at.key("scheme"), m.Scheme, false)
	s.checkMatch(at.key("method"), m.Method, false)
	s.checkMatch(at.key("authority"), m.Authority, false)
	for _, name := range keysOf(m.Headers) {
		s.matchedHeader(at.key("headers").key(name), name)
		s.checkMatch(at.key("headers").key(name), m.Headers[name], false)
	}
	for _, name := range keysOf(m.WithoutHeaders) {
		s.matchedHeader(at.key("withoutHeaders").key(name), name)
		// "*" isn't RE2; Istio makes of it a test for presence.
		if m.WithoutHeaders[name].GetRegex() != "*" {
			s.checkMatch(at.key("withoutHeaders").key(name), m.WithoutHeaders[name], false)
		}
	}
	for _, name := range keysOf(m.QueryParams) {
		s.checkMatch(at.key("queryParams").key(name), m.QueryParams[name], false)
	}
	if m.Port != 0 {
		s.checkPort(at, "port", m.Port)
	}
	s.checkLabels(at.key("sourceLabels"), m.SourceLabels)
	s.gatewayNames(at, m.Gateways)
	if m.SourceNamespace != "" {
		if reason := badLabel(m.SourceNamespace); reason != "" {
			s.failAt(at, "sourceNamespace", "%q %s", clip(m.SourceNamespace), reason)
		}
	}
}

// matchedHeader checks the name of a header that a match looks at.
func (s *subject) matchedHeader(at *place, name string) {
	switch name {
	case ":method", ":scheme", ":authority", ":path", ":status":
		return
	}
	if reason := badHeaderName(name); reason != "" && !isClaim(name) {
		s.failAt(at, "", "%q %s", clip(name), reason)
	}
}

func (s *subject) httpDestinations(at *place, routes []*networking.HTTPRouteDestination) {
	weights := make([]int32, len(routes))
	for i, r := range routes {
		weights[i] = r.Weight
		here := at.key("route").item(i)
		s.requiredDestination(here, r.Destination)
		s.checkHeaders(here, r.Headers)
	}
	s.checkWeights(at, weights)
}

func (s *subject) httpRedirect(at *place, route *networking.HTTPRoute) {
	r := route.Redirect
	if r == nil {
		return
	}
	if r.Uri != "" && r.PrefixRewrite != "" {
		s.failAt(at, "prefixRewrite", `can't be given together with "uri"`)
	}
	if r.PrefixRewrite != "" {
		for i, m := range route.Match {
			if _, prefix := m.Uri.GetMatchType().(*networking.StringMatch_Prefix); m.Uri != nil && !prefix {
				s.failAt(at, "prefixRewrite", "replaces a prefix, and match[%d] matches the URI in another way", i)
			}
		}
	}
	if r.Uri == "" && r.PrefixRewrite == "" && r.Authority == "" && r.RedirectPort == nil && r.Scheme == "" {
		s.failAt(at, "", "needs uri, prefixRewrite, authority, port, derivePort or scheme")
	}
	// Istio's validation lets any 3xx through, but its translation knows these five and
	// leaves the route without an action for others, which Envoy refuses.
	switch r.RedirectCode {
	case 0, 301, 302, 303, 307, 308:
	default:
		s.failAt(at, "redirectCode", "%d can't be sent; wants 301, 302, 303, 307 or 308", r.RedirectCode)
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		s.failAt(at, "scheme", "%q isn't a scheme to redirect to; wants http or https", clip(r.Scheme))
	}
	if r.GetPort() != 0 {
		s.checkPort(at, "port", r.GetPort())
	}
}

// maxDirectBody is the largest body that a route may answer with.
const maxDirectBody = 1 << 20

func (s *subject) directResponse(at *place, r *networking.HTTPDirectResponse) {
	if r == nil {
		return
	}
	s.checkStatus(at, "status", int64(r.Status))
	if size := max(len(r.Body.GetString_()), len(r.Body.GetBytes())); size > maxDirectBody {
		s.failAt(at, "body", "%d bytes are too many; at most %d", size, maxDirectBody)
	}
}

// checkStatus checks a final status. (Istio also lets 600 through; Envoy doesn't.)
func (s *subject) checkStatus(at *place, field string, status int64) {
	if status < 200 || status > 599 {
		s.failAt(at, field, "%d isn't a final HTTP status; wants 200 to 599", status)
	}
}

func (s *subject) httpRewrite(at *place, r *networking.HTTPRoute) {
	authority := ""
	if w := r.Rewrite; w != nil {
		here := at.key("rewrite")
		if w.Uri != "" && w.UriRegexRewrite != nil {
			s.failAt(here, "uriRegexRewrite", `can't be given together with "uri"`)
		}
		if w.Uri == "" && w.UriRegexRewrite == nil && w.Authority == "" {
			s.failAt(here, "", "needs uri, uriRegexRewrite or authority")
		}
		if x := w.UriRegexRewrite; x != nil {
			s.checkRegex(here.key("uriRegexRewrite"), "match", x.Match)
			if x.Rewrite == "" {
				s.failAt(here.key("uriRegexRewrite"), "rewrite", "is required")
			}
		}
		authority = w.Authority
	}
	ops := at.key("headers").key("request")
	s.singleAuthority(ops.key("set"), r.Headers.GetRequest().GetSet(), &authority)
	s.singleAuthority(ops.key("add"), r.Headers.GetRequest().GetAdd(), &authority)
}

// singleAuthority refuses a second value for the request's authority.
func (s *subject) singleAuthority(at *place, values map[string]string, have *string) {
	for _, name := range keysOf(values) {
		if !isAuthority(name) {
			continue
		}
		if *have != "" {
			s.failAt(at, name, "the authority is set to %q already", clip(*have))
		}
		*have = values[name]
	}
}

func (s *subject) httpRetry(at *place, r *networking.HTTPRetry) {
	if r == nil {
		return
	}
	s.checkCount(at, "attempts", r.Attempts)
	if r.Attempts == 0 && (r.PerTryTimeout != nil || r.RetryOn != "" || r.RetryRemoteLocalities != nil) {
		s.failAt(at, "attempts", "0 turns retries off, so nothing else can be given; wants at least 1")
	}
	s.checkDuration(at, "perTryTimeout", r.PerTryTimeout)
	s.checkDuration(at, "backoff", r.Backoff)
	if r.RetryOn == "" {
		return
	}
	for policy := range strings.SplitSeq(r.RetryOn, ",") {
		if !isRetryPolicy(policy) {
			s.failAt(at, "retryOn", "%q isn't a retry condition%s", clip(policy), didYouMean(policy, retryPolicies()))
		}
	}
}

// retryPolicies lists Envoy's conditions for x-envoy-retry-on and x-envoy-retry-grpc-on.
// https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter
func retryPolicies() []string {
	return []string{
		"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx", "refused-stream",
		"retriable-status-codes", "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure",
		"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
	}
}

// isRetryPolicy also takes a status, which Istio moves to retriable-status-codes.
func isRetryPolicy(policy string) bool {
	if status, err := strconv.Atoi(policy); err == nil {
		return 100 <= status && status <= 599
	}
	return oneOf(policy, retryPolicies()...)
}

func (s *subject) httpFault(at *place, f *networking.HTTPFaultInjection) {
	if f == nil {
		return
	}
	if f.Abort == nil && f.Delay == nil {
		s.failAt(at, "", "needs delay, abort or both")
	}
	if a := f.Abort; a != nil {
		here := at.key("abort")
		s.checkPercent(here, "percentage", a.Percentage)
		switch e := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			s.checkStatus(here, "httpStatus", int64(e.HttpStatus))
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			s.grpcStatus(here, e.GrpcStatus)
		case *networking.HTTPFaultInjection_Abort_Http2Error:
			s.failAt(here, "http2Error", "isn't supported by Istio or Envoy; use httpStatus or grpcStatus")
		default:
			s.warnAt(here, "", "has no effect without httpStatus or grpcStatus")
		}
	}
	if d := f.Delay; d != nil {
		here := at.key("delay")
		s.checkPercent(here, "percentage", d.Percentage)
		//lint:ignore SA1019 deprecated, and still part of the API
		s.checkWholePercent(here, "percent", d.Percent)
		switch t := d.HttpDelayType.(type) {
		case *networking.HTTPFaultInjection_Delay_FixedDelay:
			s.checkDuration(here, "fixedDelay", t.FixedDelay)
		case *networking.HTTPFaultInjection_Delay_ExponentialDelay:
			s.failAt(here, "exponentialDelay", "isn't supported by Istio; use fixedDelay")
		default:
			s.warnAt(here, "", "has no effect without fixedDelay")
		}
	}
}

func (s *subject) grpcStatus(at *place, status string) {
	names := []string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if !oneOf(status, names...) {
		s.failAt(at, "grpcStatus", "%q isn't a gRPC status such as UNAVAILABLE%s", clip(status), didYouMean(status, names))
	}
}

func (s *subject) httpMirrors(at *place, r *networking.HTTPRoute) {
	if r.Mirror != nil && len(r.Mirrors) > 0 {
		s.failAt(at, "mirrors", `can't be given together with "mirror"`)
	}
	s.destination(at.key("mirror"), r.Mirror)
	s.checkPercent(at, "mirrorPercentage", r.MirrorPercentage)
	//lint:ignore SA1019 deprecated, and still part of the API
	if p := r.MirrorPercent; p != nil {
		if p.Value > 100 {
			s.failAt(at, "mirrorPercent", "%d isn't a percentage; wants 0 to 100", p.Value)
		}
		s.warnAt(at, "mirrorPercent", "is deprecated; use mirrorPercentage")
	}
	for i, m := range r.Mirrors {
		here := at.key("mirrors").item(i)
		s.requiredDestination(here, m.Destination)
		s.checkPercent(here, "percentage", m.Percentage)
	}
}

func (s *subject) corsPolicy(at *place, c *networking.CorsPolicy) {
	if c == nil {
		return
	}
	for i, o := range c.AllowOrigins {
		here := at.key("allowOrigins").item(i)
		if o.GetExact() == "" && o.GetPrefix() == "" && o.GetRegex() == "" {
			s.failAt(here, "", "needs exact, prefix or regex, and not empty")
			continue
		}
		s.checkMatch(here, o, false)
	}
	for i, m := range c.AllowMethods {
		if !oneOf(m, "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*") {
			s.failAt(at.key("allowMethods").item(i), "", "%q isn't an HTTP method", clip(m))
		}
	}
	s.corsHeaders(at.key("allowHeaders"), c.AllowHeaders)
	s.corsHeaders(at.key("exposeHeaders"), c.ExposeHeaders)
	s.checkDuration(at, "maxAge", c.MaxAge)
	if c.MaxAge.GetNanos() > 0 {
		s.failAt(at, "maxAge", "%s is too fine; wants whole seconds", c.MaxAge.AsDuration())
	}
}

func (s *subject) corsHeaders(at *place, names []string) {
	for i, name := range names {
		if reason := badHeaderName(name); name != "*" && reason != "" {
			s.failAt(at.item(i), "", "%q %s", clip(name), reason)
		}
	}
}
