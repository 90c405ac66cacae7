// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/cluster"
	"pillion/proxy/config"
)

// clusterRun is what runs of a cluster.
type clusterRun struct {
	eds     string   // the name of its assignment, empty if it has its hosts otherwise
	secrets []string // that the control plane brings
	active  bool     // some version of it is served
}

// clusterChange is a cluster that is to be served.
type clusterChange struct {
	e   *entry[clusterRun]
	cfg *cluster.Config
}

// hostChange are new hosts of a cluster that is served.
type hostChange struct {
	cluster string
	hosts   []cluster.Endpoint
}

// clusterTaker is the Sink as a taker of clusters.
type clusterTaker Sink

// take implements taker. A cluster whose endpoints have not come is only checked:
// it is compiled when they are there.
func (t *clusterTaker) take(e *entry[clusterRun], body []byte) error {
	s := (*Sink)(t)
	in := &clusterv3.Cluster{}
	if err := decode(body, in, e.name, in.GetName); err != nil {
		return err
	}
	if slices.Contains(s.o.Static, e.name) {
		s.warn(s.clusters.word, e.name, []string{"the proxy has one of its own by that name, which stays"})
		e.serve()
		return nil
	}
	eds := config.EDSName(in)
	cla, came, err := s.assignment(eds)
	if err != nil {
		return err
	}
	cfg, warnings, err := s.compiler.Cluster(in, cla)
	if err != nil {
		return err
	}
	s.warn(s.clusters.word, e.name, warnings)
	s.moveEDS(e, eds)
	if secrets := served(config.ClusterSecrets(in)); !slices.Equal(secrets, e.run.secrets) {
		e.run.secrets = secrets
		s.stale |= staleSecrets
	}
	delete(s.leaving, e)
	if eds != "" && !came {
		e.wait("no endpoints yet")
		s.warmClusters[e] = true
		return nil
	}
	s.pending.clusters = append(s.pending.clusters, clusterChange{e, cfg})
	delete(s.warmClusters, e)
	e.serve()
	return nil
}

// drop implements taker. One that is served is kept until nothing names it.
func (t *clusterTaker) drop(e *entry[clusterRun]) {
	s := (*Sink)(t)
	delete(s.warmClusters, e)
	e.bad, e.why = held{}, ""
	if !e.run.active {
		s.eraseCluster(e)
		return
	}
	if e.warm { // what it was to become has gone, too
		e.good = e.served
		e.serve()
	}
	e.left = time.Now()
	s.leaving[e] = true
}

// eraseCluster forgets a cluster that is not served.
func (s *Sink) eraseCluster(e *entry[clusterRun]) {
	s.moveEDS(e, "")
	s.stale |= staleSecrets
	delete(s.warmClusters, e)
	delete(s.leaving, e)
	delete(s.clusters.all, e.name)
}

// moveEDS notes under which name a cluster's assignment comes.
func (s *Sink) moveEDS(e *entry[clusterRun], name string) {
	old := e.run.eds
	if old == name {
		return
	}
	if old != "" {
		if s.byEDS[old] = slices.DeleteFunc(s.byEDS[old], func(o *entry[clusterRun]) bool { return o == e }); len(s.byEDS[old]) == 0 {
			delete(s.byEDS, old)
		}
	}
	if e.run.eds = name; name != "" {
		s.byEDS[name] = append(s.byEDS[name], e)
	}
	s.stale |= staleEndpoints
}

// assignment decodes what EDS has brought under a name.
func (s *Sink) assignment(name string) (cla *endpointv3.ClusterLoadAssignment, came bool, err error) {
	e := s.endpoints.all[name]
	if name == "" || e == nil || !e.good.is() {
		return nil, false, nil
	}
	cla = &endpointv3.ClusterLoadAssignment{}
	return cla, true, proto.Unmarshal(e.good.body, cla)
}

// commitClusters serves what is pending of clusters and their hosts.
func (s *Sink) commitClusters() {
	if list := s.pending.clusters; len(list) > 0 {
		put := make([]*cluster.Config, len(list))
		for i, c := range list {
			put[i] = c.cfg
			c.e.run.active = true
		}
		// What Update refuses, the compiler has refused before.
		if err := s.o.Env.Clusters.Update(put, nil); err != nil {
			s.o.Logger.Error("clusters can't be served", "reason", err)
		}
		s.pending.clusters = nil
	}
	for _, h := range s.pending.hosts {
		s.o.Env.Clusters.SetEndpoints(h.cluster, h.hosts)
	}
	s.pending.hosts = nil
}

// warmUp serves clusters whose endpoints haven't come in time. One that is served in an
// older version stays so.
func (s *Sink) warmUp() {
	now := time.Now()
	for e := range s.warmClusters {
		if now.Sub(e.since) < s.o.WarmFor {
			continue
		}
		delete(s.warmClusters, e)
		if e.run.active {
			continue // it still waits, but for no deadline
		}
		if err := s.activate(e, &endpointv3.ClusterLoadAssignment{ClusterName: e.run.eds}); err != nil {
			s.clusters.refuse(e, e.good, err)
			continue
		}
		since := e.since
		e.serve()
		e.waits, e.since = "no endpoints yet, served without hosts", since
		s.o.Logger.Warn("a cluster is served without hosts", "cluster", e.name, "reason", "the control plane has sent no endpoints", "waited", s.o.WarmFor)
	}
}

// activate compiles what a cluster waits with and has it served.
func (s *Sink) activate(e *entry[clusterRun], cla *endpointv3.ClusterLoadAssignment) error {
	in := &clusterv3.Cluster{}
	if err := proto.Unmarshal(e.good.body, in); err != nil {
		return err
	}
	cfg, _, err := s.compiler.Cluster(in, cla)
	if err == nil {
		s.pending.clusters = append(s.pending.clusters, clusterChange{e, cfg})
	}
	return err
}

// dropClusters removes clusters that the server has removed, as far as nothing that is
// served or to be served names them, or they were kept for long enough.
func (s *Sink) dropClusters(now time.Time) {
	if len(s.leaving) == 0 {
		return
	}
	candidates := make(map[string]bool, len(s.leaving))
	for e := range s.leaving {
		candidates[e.name] = true
	}
	named := s.named(candidates)
	var gone []string
	for e := range s.leaving {
		if named[e.name] && now.Sub(e.left) < s.o.KeepFor {
			continue
		}
		gone = append(gone, e.name)
		s.eraseCluster(e)
	}
	if len(gone) > 0 {
		_ = s.o.Env.Clusters.Update(nil, gone) // removing can't fail
		s.askFor()
	}
}

// named returns which of the names stand in listeners and routes that are served
// or are to be.
func (s *Sink) named(candidates map[string]bool) map[string]bool {
	found := map[string]bool{}
	scan := func(h *held) {
		if len(found) < len(candidates) {
			findNames(h.body, candidates, found, 0)
		}
	}
	for _, e := range s.listeners.all {
		scan(&e.good)
		scan(&e.served)
	}
	for _, e := range s.routes.all {
		scan(&e.good)
	}
	for _, e := range s.extensions.all {
		scan(&e.good)
	}
	return found
}

// upstreamTLS is what stands in each cluster that has TLS.
var upstreamTLS = []byte("transport_sockets.tls.v3.UpstreamTlsContext")

// offerALPN has clusters with TLS offer what the listeners ask for.
func (s *Sink) offerALPN() {
	if !s.compiler.SetALPN(s.wantedALPN()) {
		return
	}
	for _, e := range s.clusters.all {
		if !e.run.active || e.warm || !bytes.Contains(e.good.body, upstreamTLS) {
			continue
		}
		cla, came, err := s.assignment(e.run.eds)
		if e.run.eds != "" && !came {
			cla = &endpointv3.ClusterLoadAssignment{ClusterName: e.run.eds}
		}
		if err == nil {
			err = s.activate(e, cla)
		}
		if err != nil { // it was compiled before
			s.o.Logger.Error("a cluster keeps the protocols that it offers", "cluster", e.name, "reason", err)
		}
	}
	s.commitClusters()
}

// endpointTaker is the Sink as a taker of load assignments.
type endpointTaker Sink

// take implements taker.
func (t *endpointTaker) take(e *entry[struct{}], body []byte) error {
	s := (*Sink)(t)
	cla := &endpointv3.ClusterLoadAssignment{}
	if err := decode(body, cla, e.name, cla.GetClusterName); err != nil {
		return err
	}
	var hosts []hostChange
	var warm []*entry[clusterRun]
	before := len(s.pending.clusters)
	policy := cla.GetPolicy() != nil
	if !policy && e.good.is() {
		old := &endpointv3.ClusterLoadAssignment{}
		policy = proto.Unmarshal(e.good.body, old) == nil && old.GetPolicy() != nil
	}
	for _, c := range s.byEDS[e.name] {
		if !c.left.IsZero() {
			// With a service that is deleted istiod sends an assignment without endpoints,
			// before the routes that still name it are gone.
			continue
		}
		if c.warm || policy { // a policy is a setting of the cluster
			if err := s.activate(c, cla); err != nil {
				s.pending.clusters = s.pending.clusters[:before]
				return fmt.Errorf("for cluster %s: %w", c.name, err)
			}
			warm = append(warm, c)
			continue
		}
		in := &clusterv3.Cluster{}
		if err := proto.Unmarshal(c.good.body, in); err != nil {
			return err
		}
		list, warnings, err := s.compiler.CompileEndpoints(in, cla)
		if err != nil {
			s.pending.clusters = s.pending.clusters[:before]
			return fmt.Errorf("for cluster %s: %w", c.name, err)
		}
		s.warn(s.clusters.word, c.name, warnings)
		hosts = append(hosts, hostChange{c.name, list})
	}
	for _, c := range warm {
		delete(s.warmClusters, c)
		c.serve()
	}
	for _, h := range hosts {
		c := s.clusters.all[h.cluster]
		c.waits = ""
	}
	s.pending.hosts = append(s.pending.hosts, hosts...)
	return nil
}

// drop implements taker. The hosts of the cluster stay: that it has none any more is
// told by an assignment without endpoints.
func (t *endpointTaker) drop(e *entry[struct{}]) { delete((*Sink)(t).endpoints.all, e.name) }

// decode decodes a resource, whose name in the message must be that in the response.
func decode(body []byte, m proto.Message, name string, own func() string) error {
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("can't be decoded: %w", err)
	}
	if own() != name {
		return fmt.Errorf("name: the resource itself says %q", own())
	}
	return nil
}
