// SPDX-License-Identifier: Apache-2.0

// Package origin is the server behind the peers: one thread, one epoll
// instance, a constant answer. It does next to nothing per request, so that on
// a machine with few cores it takes as little as possible from the peer under
// test.
package origin

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"pillion/bench/proc"
)

// BodySize is the size of every answer's body.
const BodySize = 1024

// VersionField is the field by which an answer tells which of the origin's
// versions gave it.
const VersionField = "x-origin-version"

// Versions are the names of the two servers that one origin is: the subsets of
// each service.
var Versions = [2]string{"v1", "v2"}

// Role is the sub-command of the benchmark's own program that runs ServeFiles.
const Role = "role-origin"

// Origin is a running origin.
type Origin struct {
	// Process is the program.
	Process *proc.Process
	// Addrs are the addresses of the versions, in the order of Versions.
	Addrs [2]string
}

// Start runs the origin in a process of its own; the group ends it. self is
// the benchmark's executable. The sockets are opened here and handed over, so
// the ports are known and taken from the first moment.
func Start(g *proc.Group, self string, cpus []int) (*Origin, error) {
	o := &Origin{}
	files := make([]*os.File, len(Versions))
	for i := range Versions {
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
		o.Addrs[i], files[i] = ln.Addr().String(), f
	}
	var err error
	o.Process, err = g.Start(proc.Spec{Name: "origin", Path: self, Args: []string{Role}, Files: files, CPUs: cpus})
	return o, err
}

// ServeFiles serves the listeners that Start hands over as descriptors 3 and 4.
func ServeFiles(ctx context.Context) error {
	return serve(ctx, [2]int{3, 4})
}

// response returns the whole answer of a version. The date is the one of the
// start: peers pass it on and needn't make one.
func response(version string, closing bool) []byte {
	connection := ""
	if closing {
		connection = "connection: close\r\n"
	}
	return []byte("HTTP/1.1 200 OK\r\n" +
		"date: " + time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") + "\r\n" +
		"content-type: text/plain\r\n" +
		VersionField + ": " + version + "\r\n" +
		connection +
		"content-length: " + strconv.Itoa(BodySize) + "\r\n\r\n" +
		strings.Repeat("pillion\n", BodySize/8))
}
