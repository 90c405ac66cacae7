// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/filter"
	"pillion/proxy/router"
)

var retryFields = fieldSet("retry_on", "num_retries", "per_try_timeout", "retry_priority", "retry_host_predicate",
	"host_selection_retry_max_attempts", "retriable_status_codes", "retry_back_off")

const (
	previousHostsName      = "envoy.retry_host_predicates.previous_hosts"
	previousPrioritiesType = "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
	previousHostsType      = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
)

// retryPolicy compiles when failed tries are repeated. nil is never.
func (c *routeCompiler) retryPolicy(at *place, p *routev3.RetryPolicy) (*router.RetryPolicy, error) {
	if p == nil {
		return nil, nil
	}
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		return nil, at.errorf("%w", err)
	}
	if same := c.retries[string(wire)]; same != nil {
		return same, nil
	}
	if err := c.only(at, p, retryFields, nil); err != nil {
		return nil, err
	}
	out := &router.RetryPolicy{NumRetries: 1, HostAttempts: 1}
	var unknown []string
	out.On, unknown = router.ParseRetryOn(p.GetRetryOn())
	for _, word := range unknown {
		c.warn(at.in("retry_on"), fmt.Sprintf("%q is no reason to retry", word))
	}
	if n := p.GetNumRetries(); n != nil {
		out.NumRetries = n.GetValue()
	}
	for i, code := range p.GetRetriableStatusCodes() {
		if code < 100 || code > 599 {
			return nil, at.item("retriable_status_codes", i).errorf("%d is no status", code)
		}
		out.StatusCodes = append(out.StatusCodes, int(code))
	}
	if n := p.GetHostSelectionRetryMaxAttempts(); n > 0 {
		out.HostAttempts = int(min(n, 1000))
	}
	if out.PerTryTimeout, err = duration(at.in("per_try_timeout"), p.GetPerTryTimeout()); err != nil {
		return nil, err
	}
	if err := backOff(out, at.in("retry_back_off"), p.GetRetryBackOff()); err != nil {
		return nil, err
	}
	if err := retryPlaces(out, at, p); err != nil {
		return nil, err
	}
	c.retries[string(wire)] = out
	return out, nil
}

// backOff compiles the wait between tries; like Envoy it rounds up to a
// millisecond.
func backOff(out *router.RetryPolicy, at *place, b *routev3.RetryPolicy_RetryBackOff) (err error) {
	if b == nil {
		return nil
	}
	if b.GetBaseInterval() == nil {
		return at.in("base_interval").errorf("is needed")
	}
	if out.BackoffBase, err = duration(at.in("base_interval"), b.GetBaseInterval()); err != nil {
		return err
	}
	out.BackoffBase = max(out.BackoffBase, time.Millisecond)
	if b.GetMaxInterval() == nil {
		return nil
	}
	if out.BackoffMax, err = duration(at.in("max_interval"), b.GetMaxInterval()); err != nil {
		return err
	}
	out.BackoffMax = max(out.BackoffMax, time.Millisecond)
	if out.BackoffMax < out.BackoffBase {
		return at.in("max_interval").errorf("%v is below the base_interval of %v", out.BackoffMax, out.BackoffBase)
	}
	return nil
}

// retryPlaces compiles which hosts and priorities a repeat stays away from.
func retryPlaces(out *router.RetryPolicy, at *place, p *routev3.RetryPolicy) error {
	for i, h := range p.GetRetryHostPredicate() {
		if h.GetTypedConfig().GetTypeUrl() != previousHostsType && h.GetName() != previousHostsName {
			return at.item("retry_host_predicate", i).errorf("%s is not supported", h.GetName())
		}
		out.AvoidPreviousHosts = true
	}
	rp := p.GetRetryPriority()
	if rp == nil {
		return nil
	}
	at = at.in("retry_priority")
	if rp.GetTypedConfig().GetTypeUrl() != previousPrioritiesType {
		return at.errorf("%s is not supported", rp.GetName())
	}
	var cfg previousprioritiesv3.PreviousPrioritiesConfig
	if err := rp.GetTypedConfig().UnmarshalTo(&cfg); err != nil {
		return at.in("typed_config").errorf("%w", err)
	}
	if cfg.GetUpdateFrequency() <= 0 {
		return at.in("typed_config").in("update_frequency").errorf("must be above 0")
	}
	out.AvoidPreviousPriorities = int(cfg.GetUpdateFrequency())
	return nil
}

func (c *routeCompiler) hashPolicies(at *place, list []*routev3.RouteAction_HashPolicy) ([]router.HashPolicy, error) {
	var out []router.HashPolicy
	for i, p := range list {
		h, ok, err := c.hashPolicy(at.item("hash_policy", i), p)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, h)
		}
	}
	return out, nil
}

// hashPolicy compiles one policy; false means that it contributes nothing.
func (c *routeCompiler) hashPolicy(at *place, p *routev3.RouteAction_HashPolicy) (out router.HashPolicy, ok bool, err error) {
	out.Terminal = p.GetTerminal()
	switch s := p.GetPolicySpecifier().(type) {
	case *routev3.RouteAction_HashPolicy_Header_:
		name := s.Header.GetHeaderName()
		if !router.ValidHeaderName(strings.TrimPrefix(name, ":")) {
			return out, false, at.in("header").in("header_name").errorf("%q is not a header name", name)
		}
		out.Kind, out.Header = router.HashHeader, filter.NewHeaderRef(name)
		if rw := s.Header.GetRegexRewrite(); rw != nil {
			out.Rewrite, err = c.rewrite(at.in("header").in("regex_rewrite"), rw)
		}
	case *routev3.RouteAction_HashPolicy_Cookie_:
		out.Kind, out.Name = router.HashCookie, c.text(s.Cookie.GetName())
		out.Cookie, err = affinityCookie(at.in("cookie"), s.Cookie)
	case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
		out.Kind = router.HashSourceIP
		return out, s.ConnectionProperties.GetSourceIp(), nil
	case *routev3.RouteAction_HashPolicy_QueryParameter_:
		out.Kind, out.Name = router.HashQuery, c.text(s.QueryParameter.GetName())
		if out.Name == "" {
			err = at.in("query_parameter").in("name").errorf("is needed")
		}
	default:
		err = at.errorf("only header, cookie, connection_properties and query_parameter are supported")
	}
	return out, err == nil, err
}

// affinityCookie compiles the cookie that clients are given; nil is none.
func affinityCookie(at *place, k *routev3.RouteAction_HashPolicy_Cookie) (*router.AffinityCookie, error) {
	if !router.ValidHeaderName(k.GetName()) {
		return nil, at.in("name").errorf("%q is not a cookie's name", k.GetName())
	}
	if k.GetTtl() == nil {
		return nil, nil
	}
	ttl, err := duration(at.in("ttl"), k.GetTtl())
	if err != nil {
		return nil, err
	}
	attributes := ""
	if k.GetPath() != "" {
		attributes = "; Path=" + k.GetPath()
	}
	for _, a := range k.GetAttributes() {
		attributes += "; " + a.GetName()
		if a.GetValue() != "" {
			attributes += "=" + a.GetValue()
		}
	}
	if attributes += "; HttpOnly"; !router.ValidHeaderValue(attributes) {
		return nil, at.errorf("its path or attributes hold a control character")
	}
	return &router.AffinityCookie{TTL: ttl, Attributes: attributes}, nil
}
