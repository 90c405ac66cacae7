// SPDX-License-Identifier: Apache-2.0

// Package peer knows the programs that a benchmark compares: where they are,
// how each is configured for the same job, and how to start one and see that
// it does the job.
//
// A peer's configuration is written here in its own language, the way its
// documentation says is fastest, with as many workers as every other peer has.
package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"pillion/bench/mesh"
	"pillion/bench/pki"
	"pillion/bench/proc"
)

// Job is what every peer is configured for.
type Job struct {
	// Mesh is routed by Host. With subsets, a request goes to the second
	// origin if it has mesh.MatchField: mesh.MatchValue, and to the first
	// otherwise; without, to the first.
	mesh.Mesh
	// Downstream is what clients speak; the mesh's protocol is what the origins
	// speak.
	Downstream mesh.Protocol
	// Origins are the addresses of subsets v1 and v2.
	Origins [2]string
	// TLS says which side is mutual TLS.
	TLS TLS
	// Workers is the number of threads that handle traffic.
	Workers int
	// Connections is how many clients connect at once, Streams how many requests
	// each of them may have under way.
	Connections, Streams int
	// Big says that messages are of a size at which other buffers, and splicing, pay.
	Big bool
	// Traced, unless it is 0, is the percentage of requests that are traced. Spans go to the
	// first origin by OTLP over HTTP, whose answer to everything is 200.
	Traced int
	// Inbound: it stands before the workload, the first origin, and routes
	// nothing.
	Inbound bool
	// Plane, if not nil, is where the configuration comes from instead of files.
	Plane *Plane
}

// Plane is a control plane that speaks Envoy's aggregated discovery service.
type Plane struct {
	// Addr is where it listens, without TLS.
	Addr string
	// Listen is the address of the listener that it configures.
	Listen string
	// Certificates are for the mutual TLS that its clusters can make; no endpoint
	// asks for it.
	Certificates pki.Set
}

// Driven is a peer that a control plane can drive.
type Driven interface {
	Peer
	// PrepareDriven is Prepare for a job with a Plane.
	PrepareDriven(tool Tool, dir string, job Job) (Launch, error)
}

// Tracing is a peer that can send spans.
type Tracing interface {
	Peer
	// SendsSpans marks the type: Prepare heeds Job.Traced.
	SendsSpans()
}

// TLS is mutual TLS 1.3 on one side of a peer, or, with both, between the two of a pair
// (StartPair): ECDSA P-256 certificates of one
// CA, cipher suite pki.Suite. A peer requires a certificate of that CA, and as far as it
// can it checks the identity in it, too: of clients the trust domain, of servers the name.
type TLS struct {
	// In is TLS with clients, Out with origins.
	In, Out bool
	// Certificates are those of both ends.
	Certificates pki.Set
	// Group is the key exchange with clients.
	Group pki.Group
}

// On reports whether a side is TLS.
func (t TLS) On() bool { return t.In || t.Out }

// Tool is a peer's program on this machine.
type Tool struct {
	// Path is the executable; "" for a peer that has none.
	Path string
	// Version is what it says about itself.
	Version string
}

// Launch is a peer made ready to start.
type Launch struct {
	// Spec starts it; nil for a peer without a program.
	Spec *proc.Spec
	// Addr is where it will serve.
	Addr string
	// Admin is where Pillion's own profile can be had; "" for others.
	Admin string
	// Metrics is where Pillion's own metrics will be; "" for others.
	Metrics string
	// HostOnly: it can't route by a header field, so all requests go to the
	// version that the measured request selects.
	HostOnly bool
}

// Peer is one competitor.
type Peer interface {
	// Name is the word for it on the command line and in tables.
	Name() string
	// Summary says in a line what it is and how it is set up.
	Summary() string
	// Locate finds its program, or builds it in dir. A *MissingError says how
	// to get it.
	Locate(ctx context.Context, dir string) (Tool, error)
	// Unable says why it can't do a job; "" if it can.
	Unable(job Job) string
	// Prepare writes the configuration for a job into dir, which is empty and
	// stays as long as the peer runs.
	Prepare(tool Tool, dir string, job Job) (Launch, error)
}

// The names of the peers that the rest of the benchmark treats specially.
const (
	// Ours is the proxy whose numbers the others are compared with.
	Ours = "pillion"
	// Direct is the way without any proxy.
	Direct = "direct"
)

// All returns every peer, ours first. self is the benchmark's own executable,
// which contains the net/http baseline.
func All(self string) []Peer {
	all := []Peer{
		pillion{},
		envoy{},
		haproxy{},
		nginx{},
		nghttpx{},
		goNetHTTP{self: self},
		direct{},
	}
	if os.Getenv(beforeBinary) != "" {
		all = append(all, before{})
	}
	return all
}

// MissingError is a peer that isn't on this machine.
type MissingError struct {
	// Name is the peer, Remedy says how to get it.
	Name, Remedy string
}

// Error names the peer and the remedy.
func (e *MissingError) Error() string { return fmt.Sprintf("%s isn't here: %s", e.Name, e.Remedy) }

// find returns the path of an installed program: what the environment variable
// names, else what is in PATH or in one of the given files.
func find(name, variable, remedy string, files ...string) (string, error) {
	missing := &MissingError{Name: name, Remedy: remedy + ", or set " + variable + " to its path"}
	if path := os.Getenv(variable); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			missing.Remedy = fmt.Sprintf("%s=%s is no program: %v", variable, path, err)
			return "", missing
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, path := range files {
		if _, err := exec.LookPath(path); err == nil {
			return path, nil
		}
	}
	return "", missing
}

// firstLine runs a program to completion and returns the first line of what it
// prints to either stream.
func firstLine(ctx context.Context, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%v: %w: %s", cmd, err, out)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line, nil
}

// listenAddr returns a loopback address with a free port.
func listenAddr() (string, error) {
	port, err := proc.FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}
