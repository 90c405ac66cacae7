// SPDX-License-Identifier: Apache-2.0

// Package proxy assembles the parts: it connects the sources of
// configuration, the compiler, the data path and the admin endpoints, and
// owns their life from the first bind to the end of the drain.
package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy/admin"
	"pillion/proxy/stats"
)

// Options say who the proxy is, where it listens and what it serves. The zero
// value of an address leaves that endpoint out.
type Options struct {
	// Paths are YAML files and directories; "-" reads Stdin once.
	Paths []string
	Stdin io.Reader
	// Strict makes unknown fields and kinds errors.
	Strict bool

	// HTTPAddr is the listener for every mesh service, AdminAddr and
	// MetricsAddr are the proxy's own endpoints.
	HTTPAddr, AdminAddr, MetricsAddr string

	// Listen opens ports of services at addresses, each as
	// HOST:PORT=ADDRESS:PORT; DetectionTimeout bounds the wait for the first
	// bytes where a port's protocol isn't known, 0 for the default.
	Listen           []string
	DetectionTimeout time.Duration

	// Inbound puts the proxy before ports of its workload, each as
	// ADDRESS:PORT=APPADDRESS:APPPORT.
	Inbound []string
	// MeshConfig names the file of the mesh's settings; empty is all defaults.
	MeshConfig string

	// Namespace, Labels, ServiceAccount and Workload say which workload the
	// proxy stands beside: they select configuration and are the source in
	// metrics.
	Namespace, ServiceAccount, Workload string
	Labels                              map[string]string

	// CertsDir is a folder with the workload's cert-chain.pem, key.pem and
	// root-cert.pem; empty: it has none.
	CertsDir string
	// Identity is where they come from if not from there.
	Identity Identity

	// Discovery is the control plane that drives the proxy; nil: Paths do, and only one
	// of the two may be given.
	Discovery *Discovery

	// DrainTime bounds the wait for exchanges under way when the proxy ends.
	DrainTime time.Duration

	// Stats says which statistics there are, and how they are named.
	Stats stats.View

	// Logger is where lines go, as far as the levels of Levels let them through, which the
	// admin endpoint /logging changes. nil: nowhere, and all that Logger takes.
	Logger  *slog.Logger
	Levels  *admin.Levels
	Version string
}

// Discovery says where a control plane is, and who asks it.
type Discovery struct {
	// Address is HOST:PORT, or unix: and a path. Plaintext: without TLS.
	Address   string
	Plaintext bool
	// RootFile is the file of what the server's certificate has to lead to, empty
	// for the machine's own anchors; ServerName its name, empty for that of Address.
	RootFile, ServerName string
	// TokenFile is the file of the bearer token, read at each use; empty, or a
	// file that isn't there: none is sent.
	TokenFile string
	// ClusterID and Headers go with each stream.
	ClusterID string
	Headers   map[string]string
	// StateOfTheWorld asks for everything again at each change; not set: for
	// what changed (delta).
	StateOfTheWorld bool
	// Node is the proxy as the server knows it.
	Node *corev3.Node
	// NameTable asks for Istio's table of names too, which answers look-ups.
	NameTable bool
	// Zipkin gets the spans of requests for which the server names no collector; nil:
	// nobody does.
	Zipkin *Zipkin
	// WarmFor bounds the wait for endpoints, routes and secrets of what was sent; 0 for
	// 15 s.
	WarmFor time.Duration
	// Dial makes a connection to Address; nil: one of the machine's.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Cache is a folder for the last good configuration, which is served until the
	// server answers; empty: none is kept. ReadyAfter is how long the server is given to
	// answer before the proxy is ready with it; 0 for 5 s.
	Cache      string
	ReadyAfter time.Duration
	// QuietFor is how long nothing must have come before Cache is written; 0 for 5 s.
	QuietFor time.Duration
}

// Zipkin is where a collector of spans is.
type Zipkin struct {
	Host string // a name of DNS or an address
	Port uint16
	IPv6 bool // Host is looked up for IPv6 alone
}

func (o *Options) setDefaults() {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.DrainTime == 0 {
		o.DrainTime = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Levels == nil {
		o.Levels = admin.NewLevels(admin.LevelTrace)
	}
}
