// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// namespacedName names a resource of a known kind.
type namespacedName struct{ namespace, name string }

// registry is every service that the configuration declares. It is immutable once
// built.
type registry struct {
	services []*service            // in the order of declaration
	byHost   map[string][]*service // services of one host, each in another namespace
	aliases  map[string]string     // host of an ExternalName service → host it stands for
}

// registryBuilder is what the making of services needs.
type registryBuilder struct {
	rep          *report
	clusterID    string
	domainSuffix string
	workloads    *workloadEntries
	slices       map[namespacedName][]*source.Object // by the service they belong to
	out          *registry
}

// newRegistry reads ServiceEntries, WorkloadEntries, Services and EndpointSlices.
func newRegistry(objs []*source.Object, o *Options, rep *report) *registry {
	b := &registryBuilder{
		rep:          rep,
		clusterID:    o.ClusterID,
		domainSuffix: o.DomainSuffix,
		workloads:    newWorkloadEntries(objs),
		slices:       make(map[namespacedName][]*source.Object),
		out:          &registry{byHost: make(map[string][]*service), aliases: make(map[string]string)},
	}
	for _, obj := range objs {
		if es, ok := obj.Spec.(*source.EndpointSlice); ok && es.ServiceName != "" {
			key := namespacedName{obj.Namespace, es.ServiceName}
			b.slices[key] = append(b.slices[key], obj)
		}
	}
	var aliases []*source.Object
	for _, obj := range objs {
		switch spec := obj.Spec.(type) {
		case *networking.ServiceEntry:
			for _, s := range b.serviceEntry(obj, spec) {
				b.add(s)
			}
		case *source.Service:
			if spec.Type == "ExternalName" {
				aliases = append(aliases, obj)
			} else {
				b.add(b.kubernetesService(obj, spec))
			}
		}
	}
	b.addAliases(aliases)
	return b.out
}

// add enters a service. Two declarations of a host in one namespace are one service
// when they are alike; otherwise a Kubernetes Service goes before a ServiceEntry, and
// the first before later ones.
func (b *registryBuilder) add(s *service) {
	same := b.out.byHost[s.host]
	i := slices.IndexFunc(same, func(have *service) bool { return have.namespace == s.namespace })
	if i < 0 {
		b.out.byHost[s.host] = append(same, s)
		b.out.services = append(b.out.services, s)
		return
	}
	have := same[i]
	switch {
	case have.obj == s.obj: // a host listed twice
	case have.kubernetes == s.kubernetes && have.resolution == s.resolution &&
		have.external == s.external && slices.Equal(have.exportTo, s.exportTo):
		have.absorb(s)
	case s.kubernetes && !have.kubernetes:
		b.shadowed(have, s)
		same[i] = s
		b.out.services[slices.Index(b.out.services, have)] = s
	default:
		b.shadowed(s, have)
	}
}

// shadowed tells that a declaration is without effect.
func (b *registryBuilder) shadowed(loser, winner *service) {
	field := "spec.hosts"
	if loser.kubernetes {
		field = "metadata.name"
	}
	b.rep.warnf(loser.obj, field, "host %s is ignored: it is declared by %s", loser.host, place(winner.obj))
}

// addAliases enters Services of type ExternalName. One that names a service of the
// mesh is another name of that service. Any other is a service of its own, resolved
// by DNS under the name it stands for.
func (b *registryBuilder) addAliases(objs []*source.Object) {
	services := make([]*service, len(objs))
	target := make(map[string]string, len(objs)) // host → host it stands for
	for i, obj := range objs {
		spec := obj.Spec.(*source.Service)
		services[i] = b.kubernetesService(obj, spec)
		target[services[i].host] = strings.ToLower(spec.ExternalName)
	}
	for _, s := range services {
		end := target[s.host]
		for range target { // an alias of an alias; a circle ends after all have been seen
			next, ok := target[end]
			if !ok {
				break
			}
			end = next
		}
		if concrete := b.out.byHost[end]; len(concrete) > 0 {
			b.out.aliases[s.host] = end
			for _, c := range concrete {
				c.aliases = append(c.aliases, s.host)
			}
			continue
		}
		if _, circular := target[end]; circular {
			b.rep.warnf(s.obj, "spec.externalName", "%s leads back to itself; the service is ignored", target[s.host])
			continue
		}
		b.add(s)
	}
}

// concrete follows an ExternalName service to the host it stands for.
func (r *registry) concrete(host string) string {
	if to, ok := r.aliases[host]; ok {
		return to
	}
	return host
}

// pick chooses among the services of one host for a proxy in a namespace: its own
// namespace's, then a Kubernetes Service, then the one declared first. It returns nil
// when the proxy may see none.
func (r *registry) pick(host, namespace string) *service {
	var best *service
	for _, s := range r.byHost[host] {
		if s.visibleTo(namespace) && (best == nil || preferred(s, best, namespace)) {
			best = s
		}
	}
	return best
}

// preferred reports whether s goes before a service that was declared earlier.
func preferred(s, earlier *service, namespace string) bool {
	switch {
	case earlier.namespace == namespace:
		return false
	case s.namespace == namespace:
		return true
	default:
		return s.kubernetes && !earlier.kubernetes
	}
}
