// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strings"

	mesh "istio.io/api/mesh/v1alpha1"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"pillion/proxy/istio/source"
)

// telemetryFor lists the Telemetry resources in force, from the most general to the
// most specific: the root namespace's, the proxy's namespace's, then those that select
// its labels. Of a namespace's several general ones the first counts.
func telemetryFor(objs []*source.Object, o *Options, rep *report) []*source.Object {
	var root, own *source.Object
	var workload []*source.Object
	for _, obj := range objs {
		spec, ok := obj.Spec.(*telemetry.Telemetry)
		if !ok {
			continue
		}
		if len(spec.TargetRefs) > 0 || spec.TargetRef != nil {
			rep.unsupportedf(obj, "spec.targetRefs", "resources bound to a target do not apply")
			continue
		}
		general := len(spec.GetSelector().GetMatchLabels()) == 0
		switch {
		case general && obj.Namespace == o.RootNamespace:
			if root == nil {
				root = obj
			}
		case general && obj.Namespace == o.Namespace && own == nil:
			own = obj
		case !general && obj.Namespace == o.Namespace && isSubset(spec.Selector.MatchLabels, o.Labels):
			workload = append(workload, obj)
		}
	}
	var out []*source.Object
	for _, obj := range append([]*source.Object{root, own}, workload...) {
		if obj != nil {
			out = append(out, obj)
		}
	}
	return out
}

// extensionProvider finds a provider of the MeshConfig by its name, in any case, and
// the field where it stands. Two of one name are an error of the MeshConfig.
func extensionProvider(config *source.Object, name string, rep *report) (*mesh.MeshConfig_ExtensionProvider, string, bool) {
	if config == nil {
		return nil, "", false
	}
	list := config.Spec.(*mesh.MeshConfig).ExtensionProviders
	named := func(p *mesh.MeshConfig_ExtensionProvider) bool { return strings.EqualFold(p.Name, name) }
	i := slices.IndexFunc(list, named)
	if i < 0 {
		return nil, "", false
	}
	field := fmt.Sprintf("extensionProviders[%d]", i)
	if slices.ContainsFunc(list[i+1:], named) {
		rep.errorf(config, field+".name", "there are two extension providers %s", name)
	}
	return list[i], field, true
}

// providerService finds the service of an extension provider, "host" or
// "namespace/host", and its port. An error comes with the field that is wrong.
func (sc *scope) providerService(name string, port uint32) (s *service, field string, err error) {
	namespace, host, qualified := strings.Cut(name, "/")
	if !qualified {
		namespace, host = "", name
	}
	host = strings.ToLower(host)
	all := slices.DeleteFunc(slices.Clone(sc.registry.byHost[host]), func(s *service) bool {
		return qualified && s.namespace != namespace
	})
	switch {
	case len(all) == 0:
		return nil, ".service", fmt.Errorf("there is no service %s; it is named by its full host, or as namespace/host", name)
	case len(all) > 1:
		return nil, ".service", fmt.Errorf("several namespaces have a service %s; name it as namespace/host", name)
	case all[0].port(port) == nil:
		return nil, ".port", fmt.Errorf("%s has no port %d", host, port)
	}
	if have := sc.byHost[host]; have != nil && have.obj != all[0].obj {
		return nil, ".service", fmt.Errorf("%s of namespace %s is not the one that this proxy calls by that host", host, all[0].namespace)
	}
	return all[0], "", nil
}
