// SPDX-License-Identifier: Apache-2.0

// Package scenario holds the table of scenarios and the ways to measure them.
//
// A scenario is a struct literal in All: how many services of which shape the
// peers are configured for, what both sides speak, how many clients connect, and
// one of the Measurers.
package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"

	"pillion/bench/load"
	"pillion/bench/mesh"
	"pillion/bench/origin"
	"pillion/bench/pki"
	"pillion/bench/report"
)

// Scenario is one thing to measure on every peer.
type Scenario struct {
	// Name is the word for it on the command line and in result files.
	Name string
	// Summary says in a line what is done.
	Summary string
	// Services is the number of services configured; with Subsets each has two
	// subsets chosen by a header match.
	Services int
	Subsets  bool
	// Routes is how many routes by path each service with subsets has more, none
	// of which matches.
	Routes int
	// Traced is the percentage of requests that are traced.
	Traced int
	// Downstream is what the clients speak, Upstream what the services do.
	Downstream, Upstream mesh.Protocol
	// Sealed says where mutual TLS is spoken, Group by which key exchange with
	// clients; "" is X25519.
	Sealed Sealed
	Group  pki.Group
	// Connections is how many clients connect at once, Streams how many requests
	// each has under way where the protocol lets it choose.
	Connections, Streams int
	// Features compares ours with itself, with one thing more or less each, on the
	// way out of a workload or, if Inbound is set, before it.
	Features, Inbound bool
	// Measure is how it is measured.
	Measure Measurer
}

// Sealed says which connections of a peer are mutual TLS.
type Sealed int

// The places of TLS.
const (
	Nowhere Sealed = iota
	In             // with clients
	Out            // with origins
	Between        // between two proxies of one kind, of which the cost is added up
)

// Measurer is a way to measure a scenario.
type Measurer interface {
	// Estimate returns about how long Run takes with so many peers.
	Estimate(s Settings, peers int) time.Duration
	// Run measures all peers of b in turns. It returns what it has measured
	// even beside an error.
	Run(ctx context.Context, b *Bench, sc Scenario) ([]report.Group, error)
}

// driven reports whether a control plane tells the peers what to do.
func (sc Scenario) driven() bool {
	switch sc.Measure.(type) {
	case Driven, Pushed:
		return true
	}
	return false
}

// big reports whether messages are so big that a peer does well to prepare for it.
func (sc Scenario) big() bool {
	t, ok := sc.Measure.(Throughput)
	return ok && (t.Large || t.Body >= origin.LargeSize)
}

// All returns the table of scenarios in the order in which they run.
func All() []Scenario {
	return slices.Concat(ofHTTP1(), ofProtocols(), ofTLS(), ofFeatures(), ofMemory(), ofControlPlane())
}

// ofHTTP1 are the loads of HTTP/1.1.
func ofHTTP1() []Scenario {
	return []Scenario{
		{
			Name:     "h1",
			Summary:  "HTTP/1.1: answers of 1 KiB over 64 keep-alive connections, routed by host and header",
			Services: 1, Subsets: true, Connections: 64,
			Measure: Throughput{OpenAt: []float64{0.2, 0.5, 0.8}},
		},
		{
			Name:     "h1-1000-connections",
			Summary:  "as h1, over 1,000 keep-alive connections",
			Services: 1, Subsets: true, Connections: 1000,
			Measure: Throughput{},
		},
		{
			Name:     "h1-post-64k",
			Summary:  "HTTP/1.1: uploads of 64 KiB over 64 keep-alive connections, routed by host and header",
			Services: 1, Subsets: true, Connections: 64,
			Measure: Throughput{Body: 64 << 10},
		},
		{
			Name:     "h1-get-1m",
			Summary:  "HTTP/1.1: answers of 1 MiB over 16 keep-alive connections, routed by host and header",
			Services: 1, Subsets: true, Connections: 16,
			Measure: Throughput{Large: true},
		},
		{
			Name:     "h1-post-1m",
			Summary:  "HTTP/1.1: uploads of 1 MiB over 16 keep-alive connections, routed by host and header",
			Services: 1, Subsets: true, Connections: 16,
			Measure: Throughput{Body: 1 << 20},
		},
		{
			Name:     "h1-10-services",
			Summary:  "as h1, for the last of 10 services",
			Services: 10, Subsets: true, Connections: 64,
			Measure: Throughput{},
		},
		{
			Name:     "h1-5000-services",
			Summary:  "as h1, for the last of 5,000 services",
			Services: 5000, Subsets: true, Connections: 64,
			Measure: Throughput{},
		},
		{
			Name:     "h1-1000-routes",
			Summary:  "as h1, after 1,000 routes by the beginning of another path",
			Services: 1, Subsets: true, Routes: 1000, Connections: 64,
			Measure: Throughput{},
		},
		{
			Name:     "h1-traced-1",
			Summary:  "as h1, with one request in a hundred traced; spans go to the origin by OTLP over HTTP",
			Services: 1, Subsets: true, Traced: 1, Connections: 64,
			Measure: Throughput{},
		},
		{
			Name:     "h1-traced-100",
			Summary:  "the same with every request traced",
			Services: 1, Subsets: true, Traced: 100, Connections: 64,
			Measure: Throughput{},
		},
		{
			Name:     "churn",
			Summary:  "HTTP/1.1: 64 clients, a new connection for each request",
			Services: 1, Subsets: true, Connections: 64,
			Measure: Throughput{Close: true},
		},
	}
}

// ofProtocols are the loads of the other protocols.
func ofProtocols() []Scenario {
	return []Scenario{
		{
			Name:     "h2",
			Summary:  "HTTP/2 to HTTP/2: answers of 1 KiB over 4 connections with 16 streams each, routed by host and header",
			Services: 1, Subsets: true, Downstream: mesh.HTTP2, Upstream: mesh.HTTP2, Connections: 4, Streams: 16,
			Measure: Throughput{OpenAt: []float64{0.5}},
		},
		{
			Name:     "h2-64x1",
			Summary:  "as h2, over 64 connections with one stream each",
			Services: 1, Subsets: true, Downstream: mesh.HTTP2, Upstream: mesh.HTTP2, Connections: 64, Streams: 1,
			Measure: Throughput{},
		},
		{
			Name:     "h1-to-h2",
			Summary:  "HTTP/1.1 clients of HTTP/2 services: as h1 otherwise",
			Services: 1, Subsets: true, Upstream: mesh.HTTP2, Connections: 64,
			Measure: Throughput{},
		},
		{
			Name:     "h2-to-h1",
			Summary:  "HTTP/2 clients of HTTP/1.1 services: as h2 otherwise",
			Services: 1, Subsets: true, Downstream: mesh.HTTP2, Connections: 4, Streams: 16,
			Measure: Throughput{},
		},
		{
			Name:     "grpc-unary",
			Summary:  "gRPC: unary calls of 100 bytes each way over 4 connections with 16 streams each, status in trailers",
			Services: 1, Subsets: true, Downstream: mesh.GRPC, Upstream: mesh.GRPC, Connections: 4, Streams: 16,
			Measure: Throughput{Body: 100, OpenAt: []float64{0.5}},
		},
		{
			Name:     "grpc-stream",
			Summary:  "gRPC: messages of 100 bytes to and fro on 64 open streams, 16 on each of 4 connections",
			Services: 1, Subsets: true, Downstream: mesh.GRPC, Upstream: mesh.GRPC, Connections: 4, Streams: 16,
			Measure: Throughput{Body: 100, Messages: true},
		},
		{
			Name:     "h2-slow-stream",
			Summary:  "gRPC: unary calls on 199 streams of one connection, alone and beside one stream that its client doesn't read",
			Services: 1, Subsets: true, Downstream: mesh.GRPC, Upstream: mesh.GRPC, Connections: 1, Streams: 200,
			Measure: SlowStream{Body: 100},
		},
		{
			Name:     "tcp",
			Summary:  "TCP, one listener and one endpoint",
			Services: 1, Downstream: mesh.TCP, Upstream: mesh.TCP, Connections: 64,
			Measure: Throughput{Body: 64, Bulk: 16, OpenAt: []float64{0.5}},
		},
		{
			Name:     "websocket",
			Summary:  "WebSocket over HTTP/1.1: messages of 100 bytes to and fro on 64 connections, routed by host and header",
			Services: 1, Subsets: true, Downstream: mesh.WebSocket, Upstream: mesh.WebSocket, Connections: 64,
			Measure: Throughput{Body: 100},
		},
	}
}

// sealing is what all scenarios of mutual TLS have in common.
const sealing = "; TLS 1.3, TLS_AES_128_GCM_SHA256, ECDSA P-256 certificates of one CA required and verified on both sides"

// ofTLS are the loads of mutual TLS.
func ofTLS() []Scenario {
	return []Scenario{
		{
			Name:     "mtls-in",
			Summary:  "HTTP/1.1: mutual TLS with 64 keep-alive clients, plain to the origin, answers of 1 KiB" + sealing,
			Services: 1, Sealed: In, Connections: 64,
			Measure: Throughput{},
		},
		{
			Name:     "mtls-out",
			Summary:  "HTTP/1.1: plain with 64 keep-alive clients, mutual TLS to the origins, answers of 1 KiB, routed by host and header" + sealing,
			Services: 1, Subsets: true, Sealed: Out, Connections: 64,
			Measure: Throughput{},
		},
		{
			Name:     "mtls-in-get-1m",
			Summary:  "as mtls-in, with answers of 1 MiB to 16 clients" + sealing,
			Services: 1, Sealed: In, Connections: 16,
			Measure: Throughput{Large: true},
		},
		{
			Name:     "mtls-out-get-1m",
			Summary:  "as mtls-out, with answers of 1 MiB to 16 clients" + sealing,
			Services: 1, Subsets: true, Sealed: Out, Connections: 16,
			Measure: Throughput{Large: true},
		},
		{
			Name:     "sidecar-pair",
			Summary:  "HTTP/1.1: two proxies of one kind, mutual TLS between them, 64 keep-alive clients, answers of 1 KiB, the cost of both" + sealing,
			Services: 1, Sealed: Between, Connections: 64,
			Measure: Throughput{OpenAt: []float64{0.5}},
		},
		{
			Name:     "handshakes",
			Summary:  "mutual TLS: connections with a full handshake and one request each, 16 at once, X25519" + sealing,
			Services: 1, Sealed: In, Connections: 16,
			Measure: Throughput{Handshakes: load.TLSFull},
		},
		{
			Name:     "handshakes-resumed",
			Summary:  "as handshakes, each resuming the session of one before",
			Services: 1, Sealed: In, Connections: 16,
			Measure: Throughput{Handshakes: load.TLSResumed},
		},
		{
			Name:     "handshakes-pq",
			Summary:  "as handshakes, with the post-quantum key exchange X25519MLKEM768",
			Services: 1, Sealed: In, Group: pki.X25519MLKEM768, Connections: 16,
			Measure: Throughput{Handshakes: load.TLSFull},
		},
	}
}

// ofMemory look at memory, and at the start.
func ofMemory() []Scenario {
	return []Scenario{
		{
			Name:     "idle",
			Summary:  "memory of a peer with one service and no traffic",
			Services: 1, Subsets: true, Connections: 64,
			Measure: Startup{Headline: report.RSS},
		},
		{
			Name:     "idle-connections",
			Summary:  "memory of 5,000 idle keep-alive connections, each of which has served a request",
			Services: 1, Subsets: true, Connections: 5000,
			Measure: IdleConnections{},
		},
		{
			Name:     "idle-connections-h2",
			Summary:  "memory of 2,000 idle HTTP/2 connections, each of which has served a request",
			Services: 1, Subsets: true, Downstream: mesh.HTTP2, Upstream: mesh.HTTP2, Connections: 2000,
			Measure: IdleConnections{},
		},
		{
			Name:     "idle-connections-mtls",
			Summary:  "memory of 1,000 idle keep-alive connections of mutual TLS, each of which has served a request",
			Services: 1, Sealed: In, Connections: 1000,
			Measure: IdleConnections{},
		},
		{
			Name:     "services-1000",
			Summary:  "time until 1,000 services serve, and their memory; one endpoint and one route each",
			Services: 1000, Connections: 64,
			Measure: Startup{Headline: report.Ready},
		},
		{
			Name:     "services-5000",
			Summary:  "as services-1000, 5,000 of them",
			Services: 5000, Connections: 64,
			Measure: Startup{Headline: report.Ready},
		},
		{
			Name:     "services-1000-subsets",
			Summary:  "as services-1000, with two subsets and a header match each",
			Services: 1000, Subsets: true, Connections: 64,
			Measure: Startup{Headline: report.Ready},
		},
	}
}

// ofControlPlane are driven as istiod drives a sidecar.
func ofControlPlane() []Scenario {
	var out []Scenario
	for _, n := range []int{100, 1000, 5000} {
		out = append(out, Scenario{
			Name:     fmt.Sprintf("xds-%d", n),
			Summary:  fmt.Sprintf("driven by a control plane: %d services with two subsets and a route each, then single changes", n),
			Services: n, Subsets: true, Connections: 64,
			Measure: Driven{},
		})
	}
	return append(out, Scenario{
		Name:     "xds-push",
		Summary:  "driven by a control plane for 1,000 services with two subsets and a route each: requests at a fixed rate, alone and while a route changes ten times a second",
		Services: 1000, Subsets: true, Connections: 64,
		Measure: Pushed{Rate: 5000, Every: 100 * time.Millisecond},
	})
}

// ofFeatures tell what one thing costs.
func ofFeatures() []Scenario {
	return []Scenario{
		{
			Name:     "features-out",
			Summary:  "as h1, through ours with one thing more or less each",
			Services: 1, Subsets: true, Connections: 64, Features: true,
			Measure: Throughput{},
		},
		{
			Name:     "features-in",
			Summary:  "HTTP/1.1 to a workload behind ours, with one thing more each; every request has a token",
			Services: 1, Connections: 64, Features: true, Inbound: true,
			Measure: Throughput{},
		},
	}
}
