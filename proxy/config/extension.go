// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// This file resolves HTTP filters whose configuration comes by itself (ECDS).

// Extension is an HTTP filter of a listener whose configuration comes by itself.
type Extension struct {
	Name string // of the filter, and of its configuration
	Came bool   // the filter has the configuration that has come
	// Default says that there is a configuration for the time until it comes, AtOnce
	// that the listener need not wait for it.
	Default, AtOnce bool
}

var discoveryFields = fieldSet("config_source", "default_config", "apply_default_config_without_warming", "type_urls")

// SetExtensions has configurations of filters looked up by name; nil is what there is
// none of. Without a lookup a listener that needs one is refused.
func (c *Compiler) SetExtensions(lookup func(name string) *anypb.Any) { c.extensions = lookup }

// CheckExtension refuses what is no configuration of an HTTP filter that can be
// brought by itself.
func CheckExtension(in *corev3.TypedExtensionConfig) error {
	typ := messageType(in.GetTypedConfig())
	// istio.alpn, which has no build, is read from listeners alone.
	if kind := httpFilters[typ]; kind.build == nil {
		return fmt.Errorf("typed_config: type %q is not supported", typ)
	}
	return nil
}

// discover finds the configuration of a filter: what has come, or the default, or one
// that answers every request with an error. A filter is never left out because its
// configuration is missing: it may be a policy.
func (c *Compiler) discover(s *Snapshot, f *hcmv3.HttpFilter) (chainFilter, error) {
	d := f.GetConfigDiscovery()
	if c.extensions == nil {
		return chainFilter{}, fmt.Errorf("config_discovery: there is no control plane to ask")
	}
	if err := onlyFields(d, discoveryFields); err != nil {
		return chainFilter{}, at("config_discovery", err)
	}
	if len(d.GetTypeUrls()) == 0 {
		return chainFilter{}, fmt.Errorf("config_discovery.type_urls: is empty")
	}
	if f.GetName() == "" {
		return chainFilter{}, fmt.Errorf("name: is empty, and is that of the configuration to ask for")
	}
	fallback := d.GetDefaultConfig()
	if err := checkDiscovered(fallback, d.GetTypeUrls()); err != nil {
		return chainFilter{}, fmt.Errorf("config_discovery.default_config: %w", err)
	}
	a := c.extensions(f.GetName())
	if checkDiscovered(a, d.GetTypeUrls()) != nil {
		a = nil // it was for the listener's last version: the one for this is to come
	}
	s.noteExtension(Extension{Name: f.GetName(), Came: a != nil, Default: fallback != nil,
		AtOnce: fallback != nil && d.GetApplyDefaultConfigWithoutWarming()})
	if a == nil {
		a = fallback
	}
	if a == nil {
		return chainFilter{f.GetName(), httpFilter{build: buildMissing}, nil}, nil
	}
	return chainFilter{f.GetName(), httpFilters[messageType(a)], a}, nil
}

// checkDiscovered refuses a configuration of a type that the filter must not have.
// nil is none.
func checkDiscovered(a *anypb.Any, allowed []string) error {
	if a == nil {
		return nil
	}
	if err := CheckExtension(&corev3.TypedExtensionConfig{TypedConfig: a}); err != nil {
		return err
	}
	typ := messageType(a)
	// Envoy compares the names of messages (Envoy: validateTypeUrlHelper).
	if !slices.ContainsFunc(allowed, func(url string) bool { return messageType(&anypb.Any{TypeUrl: url}) == typ }) {
		return fmt.Errorf("typed_config: type %q is not among type_urls %q", typ, allowed)
	}
	return nil
}

// noteExtension notes what a listener is made of. One that several connection managers
// name waits if one of them does.
func (s *Snapshot) noteExtension(e Extension) {
	i := slices.IndexFunc(s.extensions, func(o Extension) bool { return o.Name == e.Name })
	if i < 0 {
		s.extensions = append(s.extensions, e)
		return
	}
	o := &s.extensions[i]
	o.Came, o.Default, o.AtOnce = o.Came && e.Came, o.Default && e.Default, o.AtOnce && e.AtOnce
}

// missingFilter stands for a filter whose configuration has not come.
type missingFilter struct{}

// errMissing is what Envoy answers then, with an empty body (Envoy:
// MissingConfigFilter).
var errMissing = &http.Error{Status: 500, Flag: http.FlagNoFilterConfig}

func buildMissing(*chains, *anypb.Any, *anypb.Any) (any, error) { return missingFilter{}, nil }

// OnRequest implements filter.RequestFilter.
func (missingFilter) OnRequest(ex *http.Exchange) filter.Status {
	ex.LocalReply = http.LocalReply{Status: errMissing.Status, Err: errMissing}
	return filter.Reply
}
