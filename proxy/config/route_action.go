// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 istiod and its users still set deprecated fields

package config

import (
	"math"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"pillion/proxy/filter"
	"pillion/proxy/router"
)

// defaultRouteTimeout is Envoy's, for a route that says nothing. istiod always
// says something.
const defaultRouteTimeout = 15 * time.Second

var (
	actionFields = fieldSet("cluster", "weighted_clusters", "cluster_not_found_response_code", "prefix_rewrite",
		"regex_rewrite", "host_rewrite_literal", "auto_host_rewrite", "append_x_forwarded_host", "timeout", "idle_timeout",
		"retry_policy", "request_mirror_policies", "hash_policy", "max_grpc_timeout", "grpc_timeout_offset",
		"max_stream_duration", "upgrade_configs")
	weightedFields = fieldSet("clusters", "total_weight")
	// weightedPassed: there is no runtime that could override a weight.
	weightedPassed = fieldSet("runtime_key_prefix")
	weightFields   = fieldSet("name", "weight", "request_headers_to_add", "request_headers_to_remove",
		"response_headers_to_add", "response_headers_to_remove", "typed_per_filter_config", "host_rewrite_literal")
	mirrorFields = fieldSet("cluster", "runtime_fraction", "trace_sampled", "disable_shadow_host_suffix_append",
		"host_rewrite_literal")
	redirectFields = fieldSet("https_redirect", "scheme_redirect", "host_redirect", "port_redirect", "path_redirect",
		"prefix_rewrite", "regex_rewrite", "response_code", "strip_query")
)

func (c *routeCompiler) forward(out *router.Route, at *place, vh *routev3.VirtualHost, a *routev3.RouteAction, overrides []map[string]*anypb.Any) (err error) {
	if err := c.only(at, a, actionFields, nil); err != nil {
		return err
	}
	if a.GetAutoHostRewrite().GetValue() {
		return at.in("auto_host_rewrite").errorf("is not supported")
	}
	switch s := a.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		out.Targets = make([]router.Target, 1)
		t := &out.Targets[0]
		t.Weight = 1
		t.Cluster, err = c.cluster(at.in("cluster"), s.Cluster)
	case *routev3.RouteAction_WeightedClusters:
		out.Targets, err = c.targets(at.in("weighted_clusters"), s.WeightedClusters, out.Chain, overrides)
	default:
		err = at.errorf("it needs one of cluster and weighted_clusters")
	}
	if err != nil {
		return err
	}
	switch a.GetClusterNotFoundResponseCode() {
	case routev3.RouteAction_NOT_FOUND:
		out.NotFoundStatus = 404
	case routev3.RouteAction_INTERNAL_SERVER_ERROR:
		out.NotFoundStatus = 500
	default:
		out.NotFoundStatus = 503
	}
	if out.Rewrite, err = c.actionRewrite(at, a); err != nil {
		return err
	}
	if err := c.timeouts(out, at, a); err != nil {
		return err
	}
	policy, where := a.GetRetryPolicy(), at.in("retry_policy")
	if policy == nil {
		policy, where = vh.GetRetryPolicy(), at.up.up.in("retry_policy")
	}
	if out.Retry, err = c.retryPolicy(where, policy); err != nil {
		return err
	}
	if err := c.upgrades(out, at, a.GetUpgradeConfigs()); err != nil {
		return err
	}
	return c.policies(out, at, vh, a)
}

// policies compiles what goes beside the request: mirrors and hashes.
func (c *routeCompiler) policies(out *router.Route, at *place, vh *routev3.VirtualHost, a *routev3.RouteAction) (err error) {
	mirrors, where := a.GetRequestMirrorPolicies(), at
	if len(mirrors) == 0 {
		// The most specific list that is not empty counts, alone.
		mirrors, where = vh.GetRequestMirrorPolicies(), at.up.up
	}
	if len(mirrors) == 0 {
		mirrors, where = c.rc.GetRequestMirrorPolicies(), at.up.up.up
	}
	if len(mirrors)+len(a.GetHashPolicy()) == 0 {
		return nil
	}
	out.More = more(out)
	for i, m := range mirrors {
		mirror, err := c.mirror(where.item("request_mirror_policies", i), m)
		if err != nil {
			return err
		}
		out.More.Mirrors = append(out.More.Mirrors, mirror)
	}
	out.More.Hash, err = c.hashPolicies(at, a.GetHashPolicy())
	return err
}

func (c *routeCompiler) cluster(at *place, name string) (router.Cluster, error) {
	if name == "" {
		return nil, at.errorf("must not be empty")
	}
	cl := c.env.Cluster(name)
	if cl == nil && c.rc.GetValidateClusters().GetValue() {
		return nil, at.errorf("there is no cluster %q", name)
	}
	return cl, nil
}

func (c *routeCompiler) targets(at *place, w *routev3.WeightedCluster, chain *filter.Chain, overrides []map[string]*anypb.Any) ([]router.Target, error) {
	if err := c.only(at, w, weightedFields, weightedPassed); err != nil {
		return nil, err
	}
	out := make([]router.Target, len(w.GetClusters()))
	var sum uint64
	for i, cw := range w.GetClusters() {
		here := at.item("clusters", i)
		if err := c.target(&out[i], here, cw, chain, overrides); err != nil {
			return nil, err
		}
		sum += uint64(out[i].Weight)
	}
	if total := w.GetTotalWeight(); total != nil && uint64(total.GetValue()) != sum {
		c.warn(at.in("total_weight"), "differs from the sum of the weights, which counts")
	}
	if sum == 0 || sum > math.MaxUint32 {
		return nil, at.errorf("the weights add up to %d, which must be between 1 and %d", sum, uint32(math.MaxUint32))
	}
	return out, nil
}

func (c *routeCompiler) target(out *router.Target, at *place, w *routev3.WeightedCluster_ClusterWeight, chain *filter.Chain, overrides []map[string]*anypb.Any) (err error) {
	if err := c.only(at, w, weightFields, nil); err != nil {
		return err
	}
	if w.GetWeight() == nil {
		return at.in("weight").errorf("is needed")
	}
	out.Weight = w.GetWeight().GetValue()
	if out.Cluster, err = c.cluster(at.in("name"), w.GetName()); err != nil {
		return err
	}
	if out.HostRewrite, err = c.hostLiteral(at, w.GetHostRewriteLiteral()); err != nil {
		return err
	}
	if out.Ops, err = compileOps(at, w); err != nil {
		return err
	}
	out.Chain = chain
	if own := w.GetTypedPerFilterConfig(); len(own) > 0 {
		all := append(overrides[:len(overrides):len(overrides)], own)
		if out.Chain, err = c.chain(all); err != nil {
			return at.in("typed_per_filter_config").errorf("%w", err)
		}
	}
	return nil
}

func (c *routeCompiler) hostLiteral(at *place, host string) ([]byte, error) {
	if host == "" {
		return nil, nil
	}
	if !targetText(host) {
		return nil, at.in("host_rewrite_literal").errorf("%q holds a space or a control character", host)
	}
	return []byte(host), nil
}

func (c *routeCompiler) actionRewrite(at *place, a *routev3.RouteAction) (*router.Rewrite, error) {
	out := router.Rewrite{AppendForwardedHost: a.GetAppendXForwardedHost()}
	prefix, pattern := a.GetPrefixRewrite(), a.GetRegexRewrite()
	var err error
	if out.Host, err = c.hostLiteral(at, a.GetHostRewriteLiteral()); err != nil {
		return nil, err
	}
	switch {
	case prefix != "" && pattern != nil:
		return nil, at.in("regex_rewrite").errorf("can't be combined with prefix_rewrite")
	case prefix != "":
		if !targetText(prefix) {
			return nil, at.in("prefix_rewrite").errorf("%q holds a space or a control character", prefix)
		}
		out.Prefix = []byte(prefix)
	case pattern != nil:
		if out.Pattern, err = c.rewrite(at.in("regex_rewrite"), pattern); err != nil {
			return nil, err
		}
	}
	if out.Host == nil && out.Prefix == nil && out.Pattern == nil {
		return nil, nil
	}
	return &out, nil
}

// timeouts compiles the bounds in time. Envoy's newer max_stream_duration
// switches timeout and the older gRPC fields off
// (RouteEntryImplBase::using_new_timeouts_).
func (c *routeCompiler) timeouts(out *router.Route, at *place, a *routev3.RouteAction) (err error) {
	if out.Timeout, err = duration(at.in("timeout"), a.GetTimeout()); err != nil {
		return err
	}
	switch {
	case a.GetMaxStreamDuration() != nil:
		out.Timeout = 0
	case a.GetTimeout() == nil:
		out.Timeout = defaultRouteTimeout
	}
	m := more(out)
	any := out.More != nil
	if d := a.GetIdleTimeout(); d != nil {
		any, m.HasIdleTimeout = true, true
		if m.IdleTimeout, err = duration(at.in("idle_timeout"), d); err != nil {
			return err
		}
		if m.IdleTimeout > 0 {
			c.warn(at.in("idle_timeout"), "has no effect but on WebSocket and other upgrades: no other stream is ended for being quiet")
		}
	}
	if d := a.GetMaxGrpcTimeout(); d != nil && a.GetMaxStreamDuration() == nil {
		offset := a.GetGrpcTimeoutOffset()
		any = true
		if m.GRPC, err = grpcTimeout(at, "max_grpc_timeout", d, "grpc_timeout_offset", offset); err != nil {
			return err
		}
	}
	if s := a.GetMaxStreamDuration(); s != nil {
		any = true
		at := at.in("max_stream_duration")
		m.HasMaxStream = s.GetMaxStreamDuration() != nil
		if m.MaxStream, err = duration(at.in("max_stream_duration"), s.GetMaxStreamDuration()); err != nil {
			return err
		}
		if d := s.GetGrpcTimeoutHeaderMax(); d != nil {
			m.StreamGRPC, err = grpcTimeout(at, "grpc_timeout_header_max", d, "grpc_timeout_header_offset", s.GetGrpcTimeoutHeaderOffset())
			if err != nil {
				return err
			}
		}
	}
	if any {
		out.More = m
	}
	return nil
}

func grpcTimeout(at *place, maxName string, most *durationpb.Duration, offsetName string, offset *durationpb.Duration) (g router.GRPCTimeout, err error) {
	g.Set = true
	if g.Max, err = duration(at.in(maxName), most); err != nil {
		return g, err
	}
	g.Offset, err = duration(at.in(offsetName), offset)
	return g, err
}

// duration reads a length of time that can't be negative; nil is 0.
func duration(at *place, d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, at.errorf("%w", err)
	}
	if d.AsDuration() < 0 {
		return 0, at.errorf("%v is negative", d.AsDuration())
	}
	return d.AsDuration(), nil
}

func (c *routeCompiler) mirror(at *place, m *routev3.RouteAction_RequestMirrorPolicy) (out router.Mirror, err error) {
	if err := c.only(at, m, mirrorFields, nil); err != nil {
		return out, err
	}
	if out.Cluster, err = c.cluster(at.in("cluster"), m.GetCluster()); err != nil {
		return out, err
	}
	if _, err := c.hostLiteral(at, m.GetHostRewriteLiteral()); err != nil {
		return out, err
	}
	out.Host = m.GetHostRewriteLiteral()
	out.Fraction = fraction(m.GetRuntimeFraction())
	out.KeepHost = m.GetDisableShadowHostSuffixAppend()
	out.Traced, out.HasTraced = m.GetTraceSampled().GetValue(), m.GetTraceSampled() != nil
	return out, nil
}

func (c *routeCompiler) redirect(at *place, r *routev3.RedirectAction) (*router.Reply, error) {
	if err := c.only(at, r, redirectFields, nil); err != nil {
		return nil, err
	}
	out := &router.Reply{}
	switch r.GetResponseCode() {
	case routev3.RedirectAction_MOVED_PERMANENTLY:
		out.Status = 301
	case routev3.RedirectAction_FOUND:
		out.Status = 302
	case routev3.RedirectAction_SEE_OTHER:
		out.Status = 303
	case routev3.RedirectAction_TEMPORARY_REDIRECT:
		out.Status = 307
	case routev3.RedirectAction_PERMANENT_REDIRECT:
		out.Status = 308
	default:
		return nil, at.in("response_code").errorf("%v is not known", r.GetResponseCode())
	}
	for name, v := range map[string]string{"scheme_redirect": r.GetSchemeRedirect(), "host_redirect": r.GetHostRedirect(),
		"path_redirect": r.GetPathRedirect(), "prefix_rewrite": r.GetPrefixRewrite()} {
		if !targetText(v) {
			return nil, at.in(name).errorf("%q holds a space or a control character", v)
		}
	}
	if r.GetPortRedirect() > math.MaxUint16 {
		return nil, at.in("port_redirect").errorf("%d is no port", r.GetPortRedirect())
	}
	l := &out.Location
	l.Scheme = strings.ToLower(r.GetSchemeRedirect())
	if r.GetHttpsRedirect() {
		l.Scheme = "https"
	}
	l.Host, l.Port, l.Path, l.StripQuery = r.GetHostRedirect(), r.GetPortRedirect(), r.GetPathRedirect(), r.GetStripQuery()
	if p := r.GetPrefixRewrite(); p != "" {
		l.Prefix = []byte(p)
	}
	if p := r.GetRegexRewrite(); p != nil {
		var err error
		if l.Pattern, err = c.rewrite(at.in("regex_rewrite"), p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *routeCompiler) directResponse(at *place, d *routev3.DirectResponseAction) (*router.Reply, error) {
	if d.GetBodyFormat() != nil {
		return nil, at.in("body_format").errorf("is not supported")
	}
	out := &router.Reply{Status: int(d.GetStatus())}
	if out.Status < 200 || out.Status > 599 {
		return nil, at.in("status").errorf("%d is no final status", out.Status)
	}
	switch b := d.GetBody().GetSpecifier().(type) {
	case nil:
	case *corev3.DataSource_InlineString:
		out.Body = b.InlineString
	case *corev3.DataSource_InlineBytes:
		out.Body = string(b.InlineBytes)
	default:
		return nil, at.in("body").errorf("only inline_string and inline_bytes are supported")
	}
	if len(out.Body) > c.bodySize {
		return nil, at.in("body").errorf("has %d bytes, more than the %d of max_direct_response_body_size_bytes", len(out.Body), c.bodySize)
	}
	return out, nil
}
