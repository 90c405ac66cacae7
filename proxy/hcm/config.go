// SPDX-License-Identifier: Apache-2.0

// Package hcm is the HTTP connection manager: it serves one downstream
// connection after the other's accept, turns its requests into exchanges,
// routes them, runs the filters of the route, hands them to the forwarder,
// and finishes each one exactly once.
package hcm

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"pillion/proxy/accesslog"
	"pillion/proxy/filter"
	"pillion/proxy/forward"
	"pillion/proxy/http"
	"pillion/proxy/http/h1"
	"pillion/proxy/http/h2"
	"pillion/proxy/router"
	"pillion/proxy/trace"
)

// Routes is the place where a route table is published. It is shared by all
// managers that use one route configuration, so that a new table reaches
// every one of them by one store.
type Routes struct{ p atomic.Pointer[router.Table] }

// Load returns the current table, nil while there is none.
func (r *Routes) Load() *router.Table { return r.p.Load() }

// Store publishes a table.
func (r *Routes) Store(t *router.Table) { r.p.Store(t) }

// ServerHeader says what becomes of the Server field of responses
// (HttpConnectionManager.server_header_transformation).
type ServerHeader uint8

// The transformations.
const (
	ServerOverwrite ServerHeader = iota
	ServerAppendIfAbsent
	ServerPassThrough
)

// Config is everything that one HttpConnectionManager resource says. It is
// immutable; a manager's current one is replaced as a whole.
type Config struct {
	StatPrefix string
	Routes     *Routes
	// NoRouteChain holds the filters that see requests without a route.
	NoRouteChain *filter.Chain
	AccessLogs   []*accesslog.Logger
	// Tracing is nil where no request is traced.
	Tracing *trace.Config
	// Admit are asked for each connection before it is served.
	Admit   []filter.Admitter
	Limits  *h1.Limits
	HTTP2   *h2.Config
	Forward *forward.Options

	// ServerName is the value of the Server field.
	ServerName   []byte
	ServerHeader ServerHeader
	Path         PathOptions
	// UseRemoteAddress makes this an edge: the client's address is appended
	// to X-Forwarded-For, and what a client may not say is dropped.
	UseRemoteAddress bool
	// TrustedHops is the number of proxies in front of this one whose entries
	// in X-Forwarded-For are believed (xff_num_trusted_hops).
	TrustedHops int
	// SkipXFFAppend leaves X-Forwarded-For as it came, AppendForwardedPort
	// tells the port that an edge's client called.
	SkipXFFAppend, AppendForwardedPort bool
	// Internal are the addresses of clients that are our own, and may steer us
	// by x-envoy-… fields; none by default (internal_address_config).
	Internal []netip.Prefix
	// ForwardClientCert and ClientCert rule x-forwarded-client-cert.
	ForwardClientCert ForwardClientCert
	ClientCert        ClientCertDetails
	GenerateRequestID bool
	// PreserveRequestID keeps an edge client's X-Request-Id.
	PreserveRequestID bool
	AcceptHTTP10      bool
	// Upgrades are the protocols that a client may switch to where the route
	// doesn't say otherwise.
	Upgrades router.Upgrades

	// MaxRequests ends a connection with that many requests; 0 for no bound.
	MaxRequests uint32
	// IdleTimeout closes a connection without a request (default 1 h),
	// HeadersTimeout bounds the time from a head's first byte to its last
	// (0: none), RequestTimeout that from the head's end to the body's (0: none).
	IdleTimeout, HeadersTimeout, RequestTimeout time.Duration
}

// DefaultHeadersTimeout bounds a request head when configuration sets no
// other bound: a head that takes longer is a slow-loris attack.
const DefaultHeadersTimeout = 15 * time.Second

// DefaultIdleTimeout is Envoy's (common_http_protocol_options.idle_timeout).
const DefaultIdleTimeout = time.Hour

// Manager serves connections by its current Config. Its counters outlive
// changes of configuration.
type Manager struct {
	Stats Stats

	cfg     atomic.Pointer[Config]
	tracker *Tracker // immutable
	date    dateCache
	// generation is that of connections that come now; those of earlier ones end. retired is
	// when the last one did (http.Now).
	generation atomic.Uint32
	retired    atomic.Int64
}

// New returns a manager. tracker is shared by all managers of a proxy.
func New(cfg *Config, tracker *Tracker) *Manager {
	m := &Manager{tracker: tracker}
	m.cfg.Store(cfg)
	return m
}

// Update makes cfg the configuration of exchanges from now on, also on
// connections that are open.
func (m *Manager) Update(cfg *Config) { m.cfg.Store(cfg) }

func (m *Manager) config() *Config { return m.cfg.Load() }

// Retire has the connections that are open end: each after its current exchange, and
// whatever is left after Tracker.DrainTime. So do those that a Handler of before still
// brings. It is for connections that would not be let in any more, or otherwise than
// they were.
func (m *Manager) Retire() {
	m.retired.Store(http.Now())
	m.generation.Add(1)
}

// Handler returns what serves connections until the next Retire.
func (m *Manager) Handler() *Handler { return &Handler{m, m.generation.Load()} }

// Handler serves the connections of one generation of a Manager. It is a
// listener.Handler.
type Handler struct {
	m          *Manager
	generation uint32
}

// Serve serves one connection until it is closed, or until it is idle and better waited
// for by another goroutine. It takes ownership of nc.
func (h *Handler) Serve(nc net.Conn, info *http.ConnInfo) http.Rest {
	return h.m.serve(nc, info, h.generation)
}
