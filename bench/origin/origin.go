// SPDX-License-Identifier: Apache-2.0

// Package origin is the server behind the peers: one thread, one epoll
// instance, a constant answer over HTTP/1.1 and HTTP/2, an echo for gRPC. It
// does next to nothing per request, so that on a machine with few cores it takes
// as little as possible from the peer under test.
package origin

import (
	"context"
	"fmt"
	"net"
	"os"

	"pillion/bench/proc"
)

// BodySize is the size of an answer's body, but for what LargePath asks for over
// HTTP/1.1: that has LargeSize.
const (
	BodySize  = 1024
	LargePath = "/large"
	LargeSize = 1 << 20
)

// VersionField is the field by which an answer tells which of the origin's
// versions gave it.
const VersionField = "x-origin-version"

// Versions are the names of the two servers that one origin is: the subsets of
// each service.
var Versions = [2]string{"v1", "v2"}

// Kind is what a listener of the origin serves.
type Kind int

const (
	// HTTP is the constant answer over HTTP/1.1 and over HTTP/2 by prior
	// knowledge, whichever a connection begins with, and the echo of a WebSocket.
	HTTP Kind = iota
	// GRPC, over HTTP/2, answers each message with the same one and ends with
	// status 0, unary calls and streams alike.
	GRPC
	// TCP is an echo or a source of bytes, as a connection's first byte says.
	TCP
	kinds
)

// Role is the sub-command of the benchmark's own program that runs ServeFiles.
const Role = "role-origin"

// Origin is a running origin.
type Origin struct {
	// Process is the program.
	Process *proc.Process
	// Addrs are the addresses by kind, and of each kind those of the versions in
	// the order of Versions.
	Addrs [kinds][2]string
}

// Start runs the origin in a process of its own; the group ends it. self is
// the benchmark's executable. The sockets are opened here and handed over, so
// the ports are known and taken from the first moment.
func Start(g *proc.Group, self string, cpus []int) (*Origin, error) {
	o := &Origin{}
	var files []*os.File
	for k := range o.Addrs {
		for v := range Versions {
			ln, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				return nil, fmt.Errorf("origin: %w", err)
			}
			defer ln.Close()
			f, err := ln.(*net.TCPListener).File()
			if err != nil {
				return nil, fmt.Errorf("origin: %w", err)
			}
			defer f.Close()
			o.Addrs[k][v] = ln.Addr().String()
			files = append(files, f)
		}
	}
	var err error
	o.Process, err = g.Start(proc.Spec{Name: "origin", Path: self, Args: []string{Role}, Files: files, CPUs: cpus})
	return o, err
}

// ServeFiles serves the listeners that Start hands over as descriptors 3 and up.
func ServeFiles(ctx context.Context) error {
	var listeners []listener
	for k := range kinds {
		for v := range Versions {
			listeners = append(listeners, listener{fd: 3 + len(listeners), kind: k, version: v})
		}
	}
	return serve(ctx, listeners)
}
