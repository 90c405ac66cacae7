// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"fmt"
	nethttp "net/http"
	"net/url"
	"regexp"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const typePrefix = "type.googleapis.com/"

// dumpSection is one of the messages of a ConfigDump, as the fields that are
// written one by one.
type dumpSection struct {
	message proto.Message // an empty one, for its type
	version string        // version_info
	fields  []dumpField
	secret  bool // its resources are secrets
}

// dumpField is one field of a section: a list of resources, or a single one.
type dumpField struct {
	name    string
	element proto.Message // an empty one, for its type
	single  bool
	items   []Resource
	wanted  func(*Resource) bool
	wrap    func(*Resource) proto.Message
}

func isStatic(r *Resource) bool  { return r.Static }
func isDynamic(r *Resource) bool { return !r.Static && r.Message != nil }
func isActive(r *Resource) bool  { return isDynamic(r) && !r.Warming }

// isWarming takes in what never became active for being refused: tools expect a
// message in the list of what is.
func isWarming(r *Resource) bool { return !r.Static && (r.Warming || r.Message == nil) }

// body returns an Any that may be changed without changing the resource.
func (r *Resource) body() *anypb.Any {
	if r.Message == nil {
		return nil
	}
	return &anypb.Any{TypeUrl: r.Message.GetTypeUrl(), Value: r.Message.GetValue()}
}

func (r *Resource) updated() *timestamppb.Timestamp { return timestamp(r.Updated) }

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t.Truncate(time.Millisecond))
}

// failure returns what is wrong with the last form of a resource, nil if nothing
// is.
func (r *Resource) failure() *adminv3.UpdateFailureState {
	f := r.Failure
	if f == nil {
		return nil
	}
	out := &adminv3.UpdateFailureState{Details: f.Details, VersionInfo: f.Version, LastUpdateAttempt: timestamp(f.At)}
	if f.Message != nil {
		out.FailedConfiguration = &anypb.Any{TypeUrl: f.Message.GetTypeUrl(), Value: f.Message.GetValue()}
	}
	return out
}

// sections returns the dump in the order in which Envoy writes it, with the
// endpoints if assignments isn't nil.
func (d *Dump) sections(a *assignments) []dumpSection {
	all := []dumpSection{d.bootstrap(), d.clusters()}
	if len(d.Extensions) > 0 {
		all = append(all, d.extensions())
	}
	if a != nil {
		all = append(all, a.section())
	}
	return append(all, d.listeners(), d.routes(), d.secrets())
}

func (d *Dump) bootstrap() dumpSection {
	f := dumpField{name: "bootstrap", element: &bootstrapv3.Bootstrap{}, single: true, wanted: isAny,
		wrap: func(r *Resource) proto.Message {
			b := &bootstrapv3.Bootstrap{}
			if err := r.Message.UnmarshalTo(b); err != nil {
				return r.body() // shown as what can't be decoded
			}
			return b
		}}
	if d.Bootstrap != nil {
		f.items = []Resource{*d.Bootstrap}
	}
	return dumpSection{message: &adminv3.BootstrapConfigDump{}, fields: []dumpField{f}}
}

func isAny(*Resource) bool { return true }

func (d *Dump) clusters() dumpSection {
	dynamic := func(r *Resource) proto.Message {
		return &adminv3.ClustersConfigDump_DynamicCluster{VersionInfo: r.Version, Cluster: r.body(), LastUpdated: r.updated(), ErrorState: r.failure()}
	}
	return dumpSection{message: &adminv3.ClustersConfigDump{}, version: d.ClustersVersion, fields: []dumpField{
		{name: "static_clusters", element: &adminv3.ClustersConfigDump_StaticCluster{}, items: d.Clusters, wanted: isStatic,
			wrap: func(r *Resource) proto.Message {
				return &adminv3.ClustersConfigDump_StaticCluster{Cluster: r.body(), LastUpdated: r.updated()}
			}},
		{name: "dynamic_active_clusters", element: &adminv3.ClustersConfigDump_DynamicCluster{}, items: d.Clusters, wanted: isActive, wrap: dynamic},
		{name: "dynamic_warming_clusters", element: &adminv3.ClustersConfigDump_DynamicCluster{}, items: d.Clusters, wanted: isWarming, wrap: dynamic},
	}}
}

func (d *Dump) listeners() dumpSection {
	return dumpSection{message: &adminv3.ListenersConfigDump{}, version: d.ListenersVersion, fields: []dumpField{
		{name: "static_listeners", element: &adminv3.ListenersConfigDump_StaticListener{}, items: d.Listeners, wanted: isStatic,
			wrap: func(r *Resource) proto.Message {
				return &adminv3.ListenersConfigDump_StaticListener{Listener: r.body(), LastUpdated: r.updated()}
			}},
		{name: "dynamic_listeners", element: &adminv3.ListenersConfigDump_DynamicListener{}, items: firsts(d.Listeners), wanted: isAny,
			wrap: func(r *Resource) proto.Message { return dynamicListener(r.Name, d.Listeners) }},
	}}
}

// firsts returns one of each name that isn't static.
func firsts(all []Resource) []Resource {
	var out []Resource
	for i := range all {
		if !all[i].Static && (len(out) == 0 || out[len(out)-1].Name != all[i].Name) {
			out = append(out, all[i])
		}
	}
	return out
}

// dynamicListener gathers the states of one listener.
func dynamicListener(name string, all []Resource) proto.Message {
	l := &adminv3.ListenersConfigDump_DynamicListener{Name: name}
	for i := range all {
		r := &all[i]
		if r.Name != name || r.Static {
			continue
		}
		if f := r.failure(); f != nil {
			l.ErrorState = f
		}
		if r.Message == nil {
			continue
		}
		state := &adminv3.ListenersConfigDump_DynamicListenerState{VersionInfo: r.Version, Listener: r.body(), LastUpdated: r.updated()}
		switch {
		case r.Warming:
			l.WarmingState = state
		case r.Draining:
			l.DrainingState = state
		default:
			l.ActiveState = state
		}
	}
	return l
}

func (d *Dump) routes() dumpSection {
	return dumpSection{message: &adminv3.RoutesConfigDump{}, fields: []dumpField{
		{name: "static_route_configs", element: &adminv3.RoutesConfigDump_StaticRouteConfig{}, items: d.Routes, wanted: isStatic,
			wrap: func(r *Resource) proto.Message {
				return &adminv3.RoutesConfigDump_StaticRouteConfig{RouteConfig: r.body(), LastUpdated: r.updated()}
			}},
		{name: "dynamic_route_configs", element: &adminv3.RoutesConfigDump_DynamicRouteConfig{}, items: d.Routes, wanted: isDynamic,
			wrap: func(r *Resource) proto.Message {
				return &adminv3.RoutesConfigDump_DynamicRouteConfig{VersionInfo: r.Version, RouteConfig: r.body(), LastUpdated: r.updated(), ErrorState: r.failure()}
			}},
	}}
}

func (d *Dump) secrets() dumpSection {
	dynamic := func(r *Resource) proto.Message {
		return &adminv3.SecretsConfigDump_DynamicSecret{Name: r.Name, VersionInfo: r.Version, LastUpdated: r.updated(), Secret: r.body()}
	}
	return dumpSection{message: &adminv3.SecretsConfigDump{}, secret: true, fields: []dumpField{
		{name: "static_secrets", element: &adminv3.SecretsConfigDump_StaticSecret{}, items: d.Secrets, wanted: isStatic,
			wrap: func(r *Resource) proto.Message {
				return &adminv3.SecretsConfigDump_StaticSecret{Name: r.Name, LastUpdated: r.updated(), Secret: r.body()}
			}},
		{name: "dynamic_active_secrets", element: &adminv3.SecretsConfigDump_DynamicSecret{}, items: d.Secrets, wanted: isActive, wrap: dynamic},
		{name: "dynamic_warming_secrets", element: &adminv3.SecretsConfigDump_DynamicSecret{}, items: d.Secrets, wanted: isWarming, wrap: dynamic},
	}}
}

func (d *Dump) extensions() dumpSection {
	return dumpSection{message: &adminv3.EcdsConfigDump{}, fields: []dumpField{
		{name: "ecds_filters", element: &adminv3.EcdsConfigDump_EcdsFilterConfig{}, items: d.Extensions, wanted: isDynamic,
			wrap: func(r *Resource) proto.Message {
				return &adminv3.EcdsConfigDump_EcdsFilterConfig{VersionInfo: r.Version, EcdsFilter: r.body(), LastUpdated: r.updated(), ErrorState: r.failure()}
			}},
	}}
}

func (h *handler) serveConfigDump(w nethttp.ResponseWriter, _ *nethttp.Request, q url.Values) {
	names, err := compileRegex(q.Get("name_regex"))
	if err != nil {
		fail(w, nethttp.StatusBadRequest, err.Error()+"\n")
		return
	}
	dump := h.Config.ConfigDump()
	var endpoints *assignments
	if q.Has("include_eds") {
		endpoints = newAssignments(dump.Endpoints, h.Clusters.Clusters())
	}
	sections := dump.sections(endpoints)
	fields := parseMask(q.Get("mask"))
	resource := q.Get("resource")
	status, err := narrow(&sections, &fields, resource)
	if err != nil {
		fail(w, status, err.Error()+"\n")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	defer out.Flush()
	d := dumper{json: newJSON(out), names: names}
	d.json.open('{')
	d.json.key("configs")
	d.json.open('[')
	for i := range sections {
		if resource != "" {
			d.elements(&sections[i], fields)
		} else {
			d.section(&sections[i], fields)
		}
	}
	d.json.close(']')
	d.json.end('}')
}

// narrow leaves of the sections what a resource and a mask ask for, or says
// with which status the request is refused.
func narrow(sections *[]dumpSection, fields *mask, resource string) (status int, err error) {
	if resource == "" {
		return nethttp.StatusBadRequest, narrowByMask(sections, *fields)
	}
	for _, s := range *sections {
		for _, f := range s.fields {
			if f.name != resource {
				continue
			}
			if f.single {
				return nethttp.StatusBadRequest, fmt.Errorf("%s is not a list; use ?mask=%s to get only this field", resource, resource)
			}
			if err := fields.check(f.element.ProtoReflect().Descriptor()); err != nil {
				return nethttp.StatusBadRequest, fmt.Errorf("mask: %w", err)
			}
			s.fields = []dumpField{f}
			*sections = []dumpSection{s}
			return 0, nil
		}
	}
	return nethttp.StatusNotFound, fmt.Errorf("%s not found in config dump", resource)
}

// narrowByMask leaves the fields of the sections that a mask names.
func narrowByMask(sections *[]dumpSection, fields mask) error {
	if fields == nil {
		return nil
	}
	var left []dumpSection
	found := map[string]bool{}
	for _, s := range *sections {
		var kept []dumpField
		for _, f := range s.fields {
			inner, ok := fields[f.name]
			if !ok {
				continue
			}
			if err := inner.check(f.element.ProtoReflect().Descriptor()); err != nil {
				return fmt.Errorf("mask: %w", err)
			}
			found[f.name] = true
			kept = append(kept, f)
		}
		if len(kept) > 0 {
			left = append(left, dumpSection{message: s.message, fields: kept, secret: s.secret})
		}
	}
	for name := range fields {
		if !found[name] {
			return fmt.Errorf("mask: no part of the dump has a field %q", name)
		}
	}
	*sections = left
	return nil
}

// dumper writes sections.
type dumper struct {
	json  *jsonWriter
	names *regexp.Regexp // of resources; nil for all
}

// section writes one message of the dump with the fields of the mask.
func (d *dumper) section(s *dumpSection, fields mask) {
	j := d.json
	j.open('{')
	j.key("@type")
	j.text(typePrefix + string(s.message.ProtoReflect().Descriptor().FullName()))
	if s.version != "" {
		j.key("version_info")
		j.text(s.version)
	}
	p := newPreparer(s.secret)
	for i := range s.fields {
		f := &s.fields[i]
		items := d.selected(f)
		if len(items) == 0 {
			continue
		}
		j.key(f.name)
		if f.single {
			j.message(prepared(p, f.wrap(items[0]), fields[f.name]))
			if at := items[0].updated(); at != nil && fields == nil {
				j.key("last_updated")
				j.message(at)
			}
			continue
		}
		j.open('[')
		for _, r := range items {
			j.message(prepared(p, f.wrap(r), fields[f.name]))
		}
		j.close(']')
	}
	j.close('}')
}

// elements writes the resources of a section's lists, each with its type.
func (d *dumper) elements(s *dumpSection, fields mask) {
	p := newPreparer(s.secret)
	for i := range s.fields {
		f := &s.fields[i]
		for _, r := range d.selected(f) {
			m := prepared(p, f.wrap(r), fields)
			a, err := anypb.New(m)
			if err != nil {
				a = &anypb.Any{TypeUrl: typePrefix + string(m.ProtoReflect().Descriptor().FullName())}
			}
			d.json.message(a)
		}
	}
}

// selected returns the resources of a field whose names are asked for. The
// bootstrap has no name.
func (d *dumper) selected(f *dumpField) []*Resource {
	var out []*Resource
	for i := range f.items {
		r := &f.items[i]
		if f.wanted(r) && (f.single || d.names == nil || d.names.MatchString(r.Name)) {
			out = append(out, r)
		}
	}
	return out
}

func prepared(p *preparer, m proto.Message, fields mask) proto.Message {
	fields.apply(m.ProtoReflect())
	p.message(m.ProtoReflect(), false, 0)
	return m
}
