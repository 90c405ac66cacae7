// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"pillion/proxy/accesslog"
	"pillion/proxy/admin"
	"pillion/proxy/cluster"
	"pillion/proxy/config"
	"pillion/proxy/filter/istiostats"
	"pillion/proxy/hcm"
	"pillion/proxy/http"
	"pillion/proxy/istio"
	"pillion/proxy/istio/source"
	"pillion/proxy/live"
	"pillion/proxy/stats"
	"pillion/proxy/tcp"
	"pillion/proxy/tls"
	"pillion/proxy/trace"
	"pillion/proxy/xds"
)

// reloadAfter is how long the files must be quiet before they are read again:
// long enough for an editor or a mount to finish, short enough for a change
// to be served within 200 ms.
const reloadAfter = 60 * time.Millisecond

// spansWait bounds the wait for collectors of spans when the proxy ends.
const spansWait = 2 * time.Second

// Server is one running proxy.
type Server struct {
	o        Options
	started  time.Time
	registry *stats.Registry
	families *istiostats.Families
	sinks    *accesslog.Sinks
	spans    *trace.Reporters
	clusters *cluster.Manager
	secrets  *tls.Secrets
	files    *tls.Files             // the secrets that are files
	source   liveSource             // of the workload's certificate, if it is no file; immutable after New
	compiler *config.Compiler       // of files; nil with a control plane
	live     *live.Sink             // nil without a control plane, as is xds
	static   *bootstrapv3.Bootstrap // what a bootstrap would have beside who the proxy is; nil: nothing; immutable after New
	xds      *xds.Client
	tracker  *hcm.Tracker
	raw      *tcp.Tracker // connections that aren't HTTP
	bound    *listenerSet
	admin    *admin.Server
	metrics  *admin.Server
	state    atomic.Int64 // a stats.State
	reloads  reloadStats

	applyMu sync.Mutex
	current *applied // guarded by applyMu

	ctx    context.Context // ends when the server is shut down
	cancel context.CancelFunc
	work   sync.WaitGroup
	quit   chan struct{} // closed by /quitquitquit
	once   sync.Once     // guards the closing of quit
	ended  sync.Once     // guards Shutdown

	// waiting ends with ctx, or when Start is to wait for nothing any more.
	waiting     context.Context
	stopWaiting context.CancelFunc
}

// New returns a server that has read nothing and bound nothing.
func New(o Options) (*Server, error) {
	o.setDefaults()
	s := &Server{o: o, started: time.Now(), quit: make(chan struct{}), registry: stats.NewRegistryOf(o.Stats), tracker: hcm.NewTracker(), raw: tcp.NewTracker()}
	s.state.Store(int64(stats.StatePreInitializing))
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.waiting, s.stopWaiting = context.WithCancel(s.ctx)
	s.families = istiostats.NewFamilies(s.registry, istiostats.WithVersion(o.Version), istiostats.WithServices(s.serviceOf))
	s.sinks = accesslog.NewSinks(s.log(admin.LoggerFile))
	s.spans = trace.NewReporters(s.log(admin.LoggerTracing))
	node := s.node()
	s.clusters = cluster.NewManager(cluster.Options{Logger: s.log(admin.LoggerUpstream), Stats: s.registry, SelfAddr: s.isOwnAddress})
	s.secrets = tls.NewSecrets()
	s.files = tls.NewFiles(s.secrets, s.log(admin.LoggerSecret))
	s.tracker.DrainTime, s.raw.DrainTime = o.DrainTime, o.DrainTime
	s.bound = newListenerSet(s.log(admin.LoggerListener), s.log(admin.LoggerConnection), s.registry, trackers{s.tracker, s.raw})
	env := config.Env{
		Secrets:  s.secrets,
		Own:      s.ownPeer(),
		Labels:   o.Labels,
		Families: s.families,
		Sinks:    s.sinks,
		Clusters: s.clusters,
		Registry: s.registry,
		Log:      s.log(admin.LoggerJWT),

		Reporters: s.spans,
		Version:   o.Version,
		Node:      config.NodeNames{ID: node.GetId(), Cluster: node.GetCluster(), Zone: node.GetLocality().GetZone()},
	}
	if o.Discovery == nil {
		s.compiler = config.NewCompiler(env)
	} else if err := s.addDiscovery(env); err != nil {
		return nil, err
	}
	if err := s.addSource(); err != nil {
		return nil, err
	}
	if err := s.addOwnStats(); err != nil {
		return nil, err
	}
	return s, nil
}

// log returns the logger that Envoy calls so.
func (s *Server) log(name string) *slog.Logger { return s.o.Levels.Logger(name, s.o.Logger) }

// serviceOf is the service that a cluster stands for, for the metrics of
// requests that were answered before a host was chosen: an inbound cluster's
// name doesn't tell.
func (s *Server) serviceOf(name string) (istiostats.Service, bool) {
	c := s.clusters.Get(name)
	if c == nil {
		return istiostats.Service{}, false
	}
	cfg := c.Config()
	return istiostats.Service{Host: cfg.ServiceHost, Name: cfg.ServiceName, Namespace: cfg.ServiceNamespace}, cfg.ServiceHost != ""
}

// ownPeer is the workload beside the proxy, as metrics name it.
func (s *Server) ownPeer() http.Peer {
	l, id := s.o.Labels, "Kubernetes" // as Istio calls a cluster without a name
	if d := s.o.Discovery; d != nil && d.ClusterID != "" {
		id = d.ClusterID
	}
	service, revision := istio.CanonicalService(l, s.o.Workload)
	return http.Peer{
		Workload:          s.o.Workload,
		Namespace:         s.o.Namespace,
		App:               firstOf(l["app.kubernetes.io/name"], l["app"]),
		Version:           firstOf(l["app.kubernetes.io/version"], l["version"]),
		CanonicalService:  service,
		CanonicalRevision: revision,
		ClusterID:         id,
	}
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// Start binds the proxy's own endpoints, reads the configuration, serves it
// and watches for changes. On an error nothing is left running; a
// *ConfigError says what is wrong with the configuration.
func (s *Server) Start() error {
	if err := s.startEndpoints(); err != nil {
		s.stopAll()
		return err
	}
	s.tracker.OnQuiet = giveBack
	s.goRun(s.tracker.Run)
	s.goRun(s.raw.Run)
	s.goRun(s.families.Run)
	if err := s.loadCerts(); err != nil {
		s.stopAll()
		return err
	}
	s.goRun(s.watchCerts)
	if s.o.Discovery != nil {
		// The control plane and the source of the certificate are asked at the same
		// time; the proxy is ready when both have answered.
		s.startDiscovery()
		s.startSource()
		return nil
	}
	s.startSource()
	if err := s.startFiles(); err != nil {
		s.stopAll()
		return err
	}
	s.state.Store(int64(stats.StateLive))
	s.tracker.Worked()
	return nil
}

// startFiles serves what the files say, and what they will say.
func (s *Server) startFiles() error {
	// Watching begins before the first reading, so that no change in between
	// is missed.
	watcher, err := s.newWatcher()
	if err == nil {
		err = s.reload()
	}
	if err != nil {
		if watcher != nil {
			_ = watcher.Close()
		}
		return err
	}
	if watcher != nil {
		s.goRun(func(ctx context.Context) { s.watch(ctx, watcher) })
	}
	return nil
}

func (s *Server) goRun(f func(context.Context)) {
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		f(s.ctx)
	}()
}

// newWatcher watches the files; nil when there is nothing that can change.
func (s *Server) newWatcher() (*source.Watcher, error) {
	paths := s.watchable()
	if len(paths) == 0 {
		return nil, nil
	}
	return source.NewWatcher(paths, reloadAfter, s.log(admin.LoggerConfig))
}

// watch reads the files again after each change, until ctx ends.
func (s *Server) watch(ctx context.Context, w *source.Watcher) {
	if err := w.Run(ctx, func() { _ = s.reload() }); err != nil && ctx.Err() == nil {
		s.log(admin.LoggerConfig).Error("the files are not watched any more; restart the proxy to serve changes", "reason", err)
	}
}

// watchable returns the paths that can change.
func (s *Server) watchable() []string {
	var out []string
	for _, p := range s.o.Paths {
		if p != "-" {
			out = append(out, p)
		}
	}
	if s.o.MeshConfig != "" {
		out = append(out, s.o.MeshConfig)
	}
	return out
}

// StopWaiting has a Start in progress wait for nothing any more, because the proxy is
// to end.
func (s *Server) StopWaiting() { s.stopWaiting() }

// Reloads returns how many times the configuration was read, served or
// refused.
func (s *Server) Reloads() uint64 { return s.reloads.ok.Value() + s.reloads.rejected.Value() }

// Quit is closed when somebody asked the proxy to end through its admin
// endpoint.
func (s *Server) Quit() <-chan struct{} { return s.quit }

func (s *Server) askToQuit() { s.once.Do(func() { close(s.quit) }) }

// Shutdown stops accepting, lets exchanges under way finish within the drain
// time (ctx ends that early), and stops everything. A second call waits for the
// first one.
func (s *Server) Shutdown(ctx context.Context) { s.ended.Do(func() { s.shutdown(ctx) }) }

func (s *Server) shutdown(ctx context.Context) {
	s.setDraining()
	s.bound.closeAll()
	ctx, cancel := context.WithTimeout(ctx, s.o.DrainTime)
	defer cancel()
	s.bound.trackers.drain(ctx)
	s.stopAll()
}

func (s *Server) stopAll() {
	s.cancel()
	s.bound.closeAll()
	s.raw.Close()
	s.work.Wait()
	s.spans.Close(spansWait)
	if s.live != nil {
		s.live.Close()
	} else {
		s.compiler.Close()
	}
	s.clusters.Close()
	_ = s.sinks.Close()
	for _, a := range []*admin.Server{s.admin, s.metrics} {
		if a != nil {
			_ = a.Close()
		}
	}
}

// Endpoint is one address that the proxy listens on.
type Endpoint struct{ Name, Addr string }

// isOwnAddress reports whether an address is one of our own listeners, which
// a request must not be sent to in a circle. It is asked while requests wait, also
// during a change of configuration.
func (s *Server) isOwnAddress(a netip.AddrPort) bool {
	own := s.bound.allAddresses()
	for _, e := range []*admin.Server{s.admin, s.metrics} {
		if e != nil {
			own = append(own, e.Addr())
		}
	}
	for _, text := range own {
		own, err := netip.ParseAddrPort(text)
		if err != nil || own.Port() != a.Port() {
			continue
		}
		if own.Addr() == a.Addr().Unmap() || own.Addr().IsUnspecified() && isLocal(a.Addr()) {
			return true
		}
	}
	return false
}

// isLocal reports whether an address is one of this machine's.
func isLocal(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // rather refuse one request too many
	}
	for _, ia := range addrs {
		if n, ok := ia.(*net.IPNet); ok && n.IP.Equal(net.IP(a.Unmap().AsSlice())) {
			return true
		}
	}
	return false
}
