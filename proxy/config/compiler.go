// SPDX-License-Identifier: Apache-2.0

package config

import (
	"log/slog"

	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/accesslog"
	"pillion/proxy/cluster"
	"pillion/proxy/filter/istiostats"
	"pillion/proxy/http"
	"pillion/proxy/pool"
	"pillion/proxy/stats"
	"pillion/proxy/tls"
	"pillion/proxy/trace"
)

// Env is what compiled structures are wired to. With the zero value Compile
// checks, and its result must not be served.
type Env struct {
	Own    http.Peer         // the workload beside the proxy
	Labels map[string]string // of that workload
	// NodeID is the proxy's id in the mesh (type~ip~pod.namespace~domain). Without it
	// the proxy tells nobody who its workload is.
	NodeID   string
	Families *istiostats.Families
	Sinks    *accesslog.Sinks
	// Reporters send the spans of traced requests.
	Reporters *trace.Reporters
	// Tracer is that of connection managers which have tracing and name none, as that of
	// Envoy's bootstrap; nil: they send no spans.
	Tracer *tracev3.Tracing_Http
	// Node is what spans say of the proxy, Version which one it is.
	Node     NodeNames
	Version  string
	Clusters *cluster.Manager
	Registry *stats.Registry
	Secrets  *tls.Secrets // live certificates and trust anchors
	Log      *slog.Logger // of what compiled filters meet later; nil: told to nobody
}

// NodeNames are what a proxy is called: its id in the mesh, its service's name
// (Node.cluster), and the zone that it runs in. Each may be empty.
type NodeNames struct{ ID, Cluster, Zone string }

// Compiler compiles sets of resources, one after the other (Compile), or
// resources one by one (Cluster, Endpoints, Listener, Table); one Compiler does
// one of the two. It remembers the places where route tables are published, so that
// a table finds the managers that read it. Not safe for concurrent use.
type Compiler struct {
	env    Env
	places map[placeKey]*Place
	// filters are the parts of filters that live on between compilations.
	filters *filterState
	tls     *tlsContexts
	alpn    *pool.ALPN // as last compiled
	service string     // the proxy's name in traces, as last compiled
	// extensions finds what has come of filters' configurations; nil: none ever does.
	extensions func(name string) *anypb.Any
	close      []func() // of what Env left out
}

// NewCompiler returns a compiler. It must be closed.
func NewCompiler(env Env) *Compiler {
	c := &Compiler{places: map[placeKey]*Place{}}
	if env.Registry == nil {
		env.Registry = stats.NewRegistry()
	}
	if env.Families == nil {
		env.Families = istiostats.NewFamilies(env.Registry)
	}
	if env.Sinks == nil {
		env.Sinks = accesslog.NewSinks(env.Log)
		c.close = append(c.close, func() { _ = env.Sinks.Close() })
	}
	if env.Reporters == nil {
		env.Reporters = trace.NewReporters(slog.New(slog.DiscardHandler))
		c.close = append(c.close, func() { env.Reporters.Close(0) })
	}
	checks := env.Clusters == nil
	if checks {
		env.Clusters = cluster.NewManager(cluster.Options{})
		c.close = append(c.close, env.Clusters.Close)
	}
	if env.Secrets == nil {
		env.Secrets = tls.NewSecrets()
	}
	c.env, c.filters, c.tls = env, newFilterState(env.Registry, env.Clusters), newTLSContexts(env.Secrets)
	c.service = env.Node.Cluster
	c.filters.jwt = newJWTState(env.Clusters, checks, env.Log)
	c.close = append(c.close, c.filters.jwt.remotes.Close)
	return c
}

// Close ends what the compiler had to make for itself.
func (c *Compiler) Close() {
	for _, f := range c.close {
		f()
	}
}
