// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"

	"pillion/proxy/admin"
	"pillion/proxy/cluster"
	"pillion/proxy/config"
	"pillion/proxy/istio"
	"pillion/proxy/live"
	"pillion/proxy/stats"
	"pillion/proxy/tls/controlplane"
	"pillion/proxy/xds"
)

// addDiscovery makes the parts of a server that a control plane drives.
func (s *Server) addDiscovery(env config.Env) error {
	d := s.o.Discovery
	if len(s.o.Paths) > 0 {
		return errors.New("the configuration comes from a control plane or from files, not from both: leave the files out")
	}
	node := s.node()
	if node.GetMetadata() != nil {
		// What the node says of the workload is what other proxies are told.
		env.DescribeNode(node.GetId(), node.GetMetadata(), node.GetLocality().GetRegion(), node.GetLocality().GetZone())
	}
	own, err := s.addZipkin(&env)
	if err != nil {
		return err
	}
	s.live = live.New(live.Options{
		Static:     own,
		Env:        env,
		Listeners:  s.bound,
		Logger:     s.log(admin.LoggerConfig),
		WarmFor:    d.WarmFor,
		Cache:      d.Cache,
		QuietFor:   d.QuietFor,
		ReadyAfter: d.ReadyAfter,
		Node:       node.GetId(),
		Changed:    s.noteServed,
	})
	s.registry.Add(s.live)
	types := []string{live.ClusterType, live.ListenerType}
	if d.NameTable {
		types = append(types, live.NameTableType)
	}
	s.xds, err = xds.New(xds.Options{
		Server: controlplane.Server{
			Address: d.Address, Plaintext: d.Plaintext, ServerName: d.ServerName, RootFile: d.RootFile,
			TokenFile: d.TokenFile, ClusterID: d.ClusterID, Headers: d.Headers, Dial: d.Dial,
		},
		Node:            func() *corev3.Node { return node },
		Types:           types,
		StateOfTheWorld: d.StateOfTheWorld,
		Name:            live.Name,
		Sink:            s.live,
		Logger:          s.log(admin.LoggerConfig),
	})
	if err != nil {
		s.live.Close()
		return err
	}
	s.live.Subscribe(s.xds)
	s.registry.Add(s.xds)
	return nil
}

// addZipkin makes the tracer and the cluster that Istio's agent would put into the
// bootstrap, and returns the cluster's name.
func (s *Server) addZipkin(env *config.Env) (own []string, err error) {
	z := s.o.Discovery.Zipkin
	if z == nil {
		return nil, nil
	}
	tracer, in := istio.BootstrapTracer(z.Host, uint32(z.Port), z.IPv6)
	cfg, err := config.StaticCluster(in)
	if err == nil {
		err = s.clusters.Update([]*cluster.Config{cfg}, nil)
	}
	if err != nil {
		return nil, err
	}
	env.Tracer = tracer
	s.static = &bootstrapv3.Bootstrap{
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{in}},
		//lint:ignore SA1019 Istio's bootstrap sets it
		Tracing: &tracev3.Tracing{Http: tracer},
	}
	return []string{in.GetName()}, nil
}

// startDiscovery serves what was kept on disk, and begins to ask the control plane. It
// waits for neither: readiness tells when all has come.
func (s *Server) startDiscovery() {
	if s.live.LoadCache() {
		s.noteServed()
	}
	s.goRun(s.xds.Run)
}

// noteServed brings the server's state on: as Envoy's it is INITIALIZING when the clusters
// are there, and LIVE when all of the first configuration is.
func (s *Server) noteServed() {
	now := s.State()
	if now == stats.StatePreInitializing && s.live.ClustersServed() {
		s.state.CompareAndSwap(int64(now), int64(stats.StateInitializing))
		now = s.State()
	}
	if now == stats.StateInitializing && len(s.live.WaitingFor()) == 0 &&
		s.state.CompareAndSwap(int64(now), int64(stats.StateLive)) {
		s.log(admin.LoggerMain).Info("the first configuration is complete")
		giveBack()
	}
}

// Live is what the control plane has sent and what became of it; nil if the
// configuration comes from files.
func (s *Server) Live() *live.Sink { return s.live }

// controlPlane says what stands between the proxy and its control plane; empty when
// all is well.
func (s *Server) controlPlane() string {
	st := s.xds.Status()
	switch {
	case st.State == xds.Connected:
		return ""
	case st.Err != nil:
		return st.Address + ": " + st.Err.Error()
	}
	return st.Address + " hasn't answered"
}

// waitingForControlPlane names what keeps the server from being live.
func (s *Server) waitingForControlPlane() []string {
	out := s.live.WaitingFor()
	if len(out) > 0 {
		if why := s.controlPlane(); why != "" {
			out = append(out, "control plane: "+why)
		}
	}
	return out
}
