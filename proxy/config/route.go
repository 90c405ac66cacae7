// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 istiod and its users still set deprecated fields

package config

import (
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/filter"
	"pillion/proxy/match"
	"pillion/proxy/router"
)

// RouteEnv is what a route table is wired to.
type RouteEnv struct {
	// Cluster returns the stable place of a cluster, nil for one that can't
	// exist.
	Cluster func(name string) router.Cluster
	// Chain builds the filters of a route from the overrides that apply to
	// it: of the route configuration, the virtual host, the route and the
	// weighted cluster, in this order. Maps may be nil; those at the end may
	// be left out. Equal overrides should give one chain.
	Chain func(perFilter ...map[string]*anypb.Any) (*filter.Chain, error)
	// Warn, unless nil, hears of fields that are passed over because they
	// don't change where a request goes or what becomes of it.
	Warn func(warning string)
	// SuppressEnvoyHeaders is the terminal filter's setting.
	SuppressEnvoyHeaders bool
}

// defaultDirectBody bounds the body of a direct response, in octets, unless
// the route configuration says otherwise (Envoy's default).
const defaultDirectBody = 4096

// Fields of the messages of a route configuration: those that are compiled,
// and those that only concern metrics, traces and other observers. Any other
// field that is set refuses the resource.
var (
	tableFields = fieldSet("name", "virtual_hosts", "request_headers_to_add", "request_headers_to_remove",
		"response_headers_to_add", "response_headers_to_remove", "most_specific_header_mutations_wins",
		"validate_clusters", "max_direct_response_body_size_bytes", "request_mirror_policies",
		"ignore_port_in_host_matching", "ignore_path_parameters_in_path_matching", "typed_per_filter_config", "metadata")
	vhostFields = fieldSet("name", "domains", "routes", "require_tls", "request_headers_to_add",
		"request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove", "typed_per_filter_config",
		"include_request_attempt_count", "include_attempt_count_in_response", "include_is_timeout_retry_header",
		"retry_policy", "per_request_buffer_limit_bytes", "request_body_buffer_limit", "request_mirror_policies", "metadata")
	vhostPassed = fieldSet("virtual_clusters")
	routeFields = fieldSet("name", "match", "route", "redirect", "direct_response", "metadata", "decorator", "tracing",
		"typed_per_filter_config", "request_headers_to_add", "request_headers_to_remove", "response_headers_to_add",
		"response_headers_to_remove", "per_request_buffer_limit_bytes", "request_body_buffer_limit")
	routePassed = fieldSet("stat_prefix")
)

// routeCompiler compiles one route configuration.
type routeCompiler struct {
	env      RouteEnv
	rc       *routev3.RouteConfiguration
	bodySize int // of direct responses, at most
	plain    *filter.Chain

	// Equal values share memory: configurations repeat themselves a lot.
	texts   map[string]string
	regexes map[string]*match.Regex
	retries map[string]*router.RetryPolicy // by their wire form
}

// CompileRoutes compiles a route configuration. The error names the field
// that can't be served as it says, such as
// virtual_hosts[2].routes[0].route.hedge_policy.
func CompileRoutes(rc *routev3.RouteConfiguration, env RouteEnv) (*router.Table, error) {
	c, root, opt, err := beginRoutes(rc, env)
	if err != nil {
		return nil, err
	}
	b := router.NewBuilder(opt)
	for i, vh := range rc.GetVirtualHosts() {
		at := root.item("virtual_hosts", i)
		out, err := c.virtualHost(at, vh)
		if err != nil {
			return nil, err
		}
		if err := c.enter(b, at, out, vh.GetDomains()); err != nil {
			return nil, err
		}
	}
	return b.Table(), nil
}

// beginRoutes compiles all of a route configuration but its virtual hosts.
func beginRoutes(rc *routev3.RouteConfiguration, env RouteEnv) (*routeCompiler, *place, router.Options, error) {
	c := &routeCompiler{env: env, rc: rc, bodySize: defaultDirectBody, texts: map[string]string{},
		regexes: map[string]*match.Regex{}, retries: map[string]*router.RetryPolicy{}}
	root := &place{name: "route configuration"}
	opt := router.Options{
		Name:                 rc.GetName(),
		IgnorePort:           rc.GetIgnorePortInHostMatching(),
		IgnorePathParameters: rc.GetIgnorePathParametersInPathMatching(),
		MostSpecificWins:     rc.GetMostSpecificHeaderMutationsWins(),
		SuppressEnvoyHeaders: env.SuppressEnvoyHeaders,
	}
	err := c.only(root, rc, tableFields, nil)
	if err != nil {
		return nil, nil, opt, err
	}
	if n := rc.GetMaxDirectResponseBodySizeBytes(); n != nil {
		c.bodySize = int(n.GetValue())
	}
	if opt.Ops, err = compileOps(root, rc); err != nil {
		return nil, nil, opt, err
	}
	if c.plain, err = env.Chain(); err != nil {
		return nil, nil, opt, err
	}
	opt.BareChain = c.plain
	return c, root, opt, nil
}

// enter enters a virtual host into a table under its domains.
func (c *routeCompiler) enter(b *router.Builder, at *place, vh *router.VirtualHost, domains []string) error {
	if err := b.Add(vh, domains); err != nil {
		if de, ok := err.(*router.DomainError); ok {
			return at.item("domains", de.Index).errorf("%q %s", de.Domain, de.Reason)
		}
		return at.errorf("%w", err)
	}
	return nil
}

func (c *routeCompiler) virtualHost(at *place, vh *routev3.VirtualHost) (*router.VirtualHost, error) {
	if err := c.only(at, vh, vhostFields, vhostPassed); err != nil {
		return nil, err
	}
	if len(vh.GetDomains()) == 0 {
		return nil, at.in("domains").errorf("at least one is needed")
	}
	out := &router.VirtualHost{
		Name:                          c.text(vh.GetName()),
		Routes:                        make([]router.Route, len(vh.GetRoutes())),
		IncludeAttemptCount:           vh.GetIncludeRequestAttemptCount(),
		IncludeAttemptCountInResponse: vh.GetIncludeAttemptCountInResponse(),
		IncludeIsTimeoutRetry:         vh.GetIncludeIsTimeoutRetryHeader(),
	}
	switch vh.GetRequireTls() {
	case routev3.VirtualHost_NONE:
	case routev3.VirtualHost_EXTERNAL_ONLY:
		out.RequireTLS = router.TLSExternal
	case routev3.VirtualHost_ALL:
		out.RequireTLS = router.TLSAll
	default:
		return nil, at.in("require_tls").errorf("%v is not known", vh.GetRequireTls())
	}
	var err error
	if out.Ops, err = compileOps(at, vh); err != nil {
		return nil, err
	}
	for i, r := range vh.GetRoutes() {
		if err := c.route(&out.Routes[i], at.item("routes", i), vh, r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *routeCompiler) route(out *router.Route, at *place, vh *routev3.VirtualHost, r *routev3.Route) (err error) {
	if err := c.only(at, r, routeFields, routePassed); err != nil {
		return err
	}
	out.Name = c.text(r.GetName())
	out.Operation = c.text(r.GetDecorator().GetOperation())
	out.Source = c.text(r.GetMetadata().GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue())
	if out.Match, err = c.criteria(at.in("match"), r.GetMatch()); err != nil {
		return err
	}
	if out.Ops, err = compileOps(at, r); err != nil {
		return err
	}
	if err := c.routeTracing(out, at, r); err != nil {
		return err
	}
	overrides := []map[string]*anypb.Any{c.rc.GetTypedPerFilterConfig(), vh.GetTypedPerFilterConfig(), r.GetTypedPerFilterConfig()}
	if r.GetRoute() == nil {
		overrides = withoutCORS(overrides)
	}
	if out.Chain, err = c.chain(overrides); err != nil {
		return at.in("typed_per_filter_config").errorf("%w", err)
	}
	switch a := r.GetAction().(type) {
	case *routev3.Route_Route:
		out.Kind = router.Forward
		setBufferLimit(out, vh, r)
		return c.forward(out, at.in("route"), vh, a.Route, overrides)
	case *routev3.Route_Redirect:
		out.Kind = router.Redirect
		out.Reply, err = c.redirect(at.in("redirect"), a.Redirect)
	case *routev3.Route_DirectResponse:
		out.Kind = router.Direct
		out.Reply, err = c.directResponse(at.in("direct_response"), a.DirectResponse)
	default:
		err = at.errorf("it needs one of route, redirect and direct_response")
	}
	return err
}

// setBufferLimit takes the limit of the route or else of the virtual host; of
// two in one place the newer field wins.
func setBufferLimit(out *router.Route, vh *routev3.VirtualHost, r *routev3.Route) {
	m := more(out)
	switch {
	case r.GetRequestBodyBufferLimit() != nil:
		m.BufferLimit = r.GetRequestBodyBufferLimit().GetValue()
	case r.GetPerRequestBufferLimitBytes() != nil:
		m.BufferLimit = uint64(r.GetPerRequestBufferLimitBytes().GetValue())
	case vh.GetRequestBodyBufferLimit() != nil:
		m.BufferLimit = vh.GetRequestBodyBufferLimit().GetValue()
	case vh.GetPerRequestBufferLimitBytes() != nil:
		m.BufferLimit = uint64(vh.GetPerRequestBufferLimitBytes().GetValue())
	default:
		return
	}
	m.HasBufferLimit = true
	out.More = m
}

// more returns the rare part of a route, made anew if there is none yet. The
// caller stores it if it has set anything.
func more(r *router.Route) *router.More {
	if r.More != nil {
		return r.More
	}
	return &router.More{}
}

// chain builds the filters of a route; routes without overrides share one.
func (c *routeCompiler) chain(overrides []map[string]*anypb.Any) (*filter.Chain, error) {
	for _, o := range overrides {
		if len(o) > 0 {
			return c.env.Chain(overrides...)
		}
	}
	return c.plain, nil
}

// corsPolicy is the type of the CORS filter's overrides. The filter only acts
// on routes that forward, as in Envoy.
const corsPolicy = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy"

func withoutCORS(overrides []map[string]*anypb.Any) []map[string]*anypb.Any {
	out := make([]map[string]*anypb.Any, len(overrides))
	for i, o := range overrides {
		for name, cfg := range o {
			if cfg.GetTypeUrl() == corsPolicy {
				continue
			}
			if out[i] == nil {
				out[i] = make(map[string]*anypb.Any, len(o))
			}
			out[i][name] = cfg
		}
	}
	return out
}

// only refuses a message with a field set that is neither compiled nor
// harmless to pass over; of the latter it warns.
func (c *routeCompiler) only(at *place, m proto.Message, compiled, passed map[protoreflect.Name]bool) error {
	r := m.ProtoReflect()
	if bad := setField(r, func(n protoreflect.Name) bool { return !compiled[n] && !passed[n] }); bad != "" {
		return at.in(string(bad)).errorf("is not supported")
	}
	for fields, i := r.Descriptor().Fields(), 0; len(passed) > 0 && i < fields.Len(); i++ {
		if fd := fields.Get(i); passed[fd.Name()] && r.Has(fd) {
			c.warn(at.in(string(fd.Name())), "has no effect here")
		}
	}
	if len(r.GetUnknown()) > 0 {
		return at.errorf("holds fields that this build doesn't know")
	}
	return nil
}

func (c *routeCompiler) warn(at *place, why string) {
	if c.env.Warn != nil {
		c.env.Warn(at.String() + ": " + why)
	}
}

// text returns one copy of equal strings.
func (c *routeCompiler) text(s string) string {
	if s == "" {
		return ""
	}
	if t, ok := c.texts[s]; ok {
		return t
	}
	c.texts[s] = s
	return s
}

// place is where in a message a field stands. It makes its name only when
// something is wrong there.
type place struct {
	up    *place
	name  string
	index int // -1 for fields that are no lists
}

func (p *place) in(name string) *place          { return &place{up: p, name: name, index: -1} }
func (p *place) item(name string, i int) *place { return &place{up: p, name: name, index: i} }
func (p *place) errorf(f string, a ...any) error {
	return fmt.Errorf("%s: "+f, append([]any{p}, a...)...)
}

// String returns the path, as in virtual_hosts[2].routes[0].route.
func (p *place) String() string {
	if p.up == nil {
		return p.name
	}
	s := p.name
	if p.index >= 0 {
		s = fmt.Sprintf("%s[%d]", p.name, p.index)
	}
	if p.up.up == nil {
		return s
	}
	return p.up.String() + "." + s
}
