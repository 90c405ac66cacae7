// SPDX-License-Identifier: Apache-2.0

// Package config compiles xDS resources into the immutable structures that
// the data path reads. It sees the whole data path; the data path never sees
// it. Compiling changes nothing: a set of resources either compiles as a
// whole, or its errors name the resource and the field.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/cluster"
	"pillion/proxy/hcm"
	"pillion/proxy/router"
)

// Resources are the input: one consistent set, decoded.
type Resources struct {
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	Clusters  []*clusterv3.Cluster
	Endpoints []*endpointv3.ClusterLoadAssignment
	// ServiceCluster is the proxy's name in traces; empty: NodeNames.Cluster.
	ServiceCluster string
	// Octets are what clusters and endpoints are serialized to, deterministically, as far
	// as whoever compiles has them already. What isn't there is serialized again.
	Octets map[proto.Message][]byte
}

// Snapshot is everything compiled from one set. Immutable.
type Snapshot struct {
	Listeners map[string]*Listener
	Clusters  []*cluster.Config
	// Tables are the route tables with the place each is to be published at.
	Tables map[*hcm.Routes]*router.Table
	// Warnings name what was left out because it changes nothing here.
	Warnings []string
	// one says that a single listener is compiled: tables of routes that are received
	// by themselves are not. used are the places that it reads.
	one  bool
	used []*Place
	// extensions are the filters whose configurations come by themselves.
	extensions []Extension
	// Committed is called once what was compiled is served, and its clusters are
	// there: what is fetched ahead begins to be. Not safe for concurrent use with
	// the compiler.
	Committed func()
}

// Compile compiles r. The error joins one error for each bad resource.
func (c *Compiler) Compile(r *Resources) (*Snapshot, error) {
	s := &Snapshot{Listeners: map[string]*Listener{}, Tables: map[*hcm.Routes]*router.Table{}}
	var errs []error
	c.filters.jwt.begin()
	c.service = cmp.Or(r.ServiceCluster, c.env.Node.Cluster)
	errs = append(errs, c.compileClusters(s, r)...)
	routes := make(map[string]*routev3.RouteConfiguration, len(r.Routes))
	for _, rc := range r.Routes {
		routes[rc.GetName()] = rc
	}
	for _, l := range r.Listeners {
		err := c.compileListener(s, l, routes)
		if err == nil {
			err = s.Listeners[l.GetName()].identify(l)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", l.GetName(), err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	// A place that no manager reads any more is of no use; managers of what is
	// served still hold on to theirs.
	maps.DeleteFunc(c.places, func(_ placeKey, p *Place) bool { return !slices.Contains(s.used, p) })
	s.Committed = c.filters.jwt.remotes.Commit
	return s, nil
}

func (c *Compiler) compileClusters(s *Snapshot, r *Resources) (errs []error) {
	alpn, err := c.alpnOverride(r.Listeners)
	if err != nil {
		errs = append(errs, err)
	}
	assignments := make(map[string]*endpointv3.ClusterLoadAssignment, len(r.Endpoints))
	for _, a := range r.Endpoints {
		assignments[a.GetClusterName()] = a
	}
	s.Clusters = make([]*cluster.Config, 0, len(r.Clusters))
	for _, in := range r.Clusters {
		cfg, warnings, err := compileCluster(in, assignments[edsName(in)], c.tls, alpn, r.Octets)
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", in.GetName(), err))
			continue
		}
		for _, w := range warnings {
			s.Warnings = append(s.Warnings, "cluster "+in.GetName()+": "+w)
		}
		s.Clusters = append(s.Clusters, cfg)
	}
	return errs
}

// edsName is the name under which a cluster's endpoints come.
func edsName(c *clusterv3.Cluster) string {
	if n := c.GetEdsClusterConfig().GetServiceName(); n != "" {
		return n
	}
	return c.GetName()
}
