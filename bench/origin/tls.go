// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"context"
	stdtls "crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"

	"pillion/bench/pki"
	"pillion/bench/proc"
)

// SealedRole is the sub-command of the benchmark's own program that runs ServeSealed.
const SealedRole = "role-sealed-origin"

// Sealed is a running origin that speaks HTTP/1.1 over mutual TLS. It gives the same
// answers, by means of the standard library: what it costs isn't counted.
type Sealed struct {
	// Process is the program.
	Process *proc.Process
	// Addrs are the addresses of the versions.
	Addrs [2]string
}

// StartSealed is Start for it. It requires a client's certificate of the set's CA.
func StartSealed(g *proc.Group, self string, cpus []int, certs pki.Set) (*Sealed, error) {
	o := &Sealed{}
	arg, err := json.Marshal(certs)
	if err != nil {
		return nil, err
	}
	var files []*os.File
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
		o.Addrs[v] = ln.Addr().String()
		files = append(files, f)
	}
	o.Process, err = g.Start(proc.Spec{
		Name: "sealed origin", Path: self, Args: []string{SealedRole, string(arg)}, Files: files, CPUs: cpus,
		Env: []string{"GOMAXPROCS=1", "GOGC=400"},
	})
	return o, err
}

// ServeSealed serves the listeners that StartSealed hands over as descriptors 3 and up.
func ServeSealed(ctx context.Context, arg string) error {
	var certs pki.Set
	if err := json.Unmarshal([]byte(arg), &certs); err != nil {
		return fmt.Errorf("sealed origin: its certificates: %w", err)
	}
	cfg, err := certs.ServerConfig(pki.X25519)
	if err != nil {
		return fmt.Errorf("sealed origin: %w", err)
	}
	ended := make(chan error, len(Versions))
	for v := range Versions {
		f := os.NewFile(uintptr(3+v), "listener")
		ln, err := net.FileListener(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("sealed origin: descriptor %d: %w", 3+v, err)
		}
		context.AfterFunc(ctx, func() { _ = ln.Close() })
		go func() { ended <- acceptSealed(ln, cfg, v) }()
	}
	err = <-ended
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func acceptSealed(ln net.Listener, cfg *stdtls.Config, version int) error {
	answers := [len(Versions)]answers1{}
	for v := range Versions {
		answers[v] = newAnswers1(Versions[v])
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			serveSealed(stdtls.Server(c, cfg), &loop{http1: answers}, version)
		}()
	}
}

// serveSealed answers on one connection. l only gathers what is to be written.
func serveSealed(c *stdtls.Conn, l *loop, version int) {
	h, b := &h1conn{version: version}, make([]byte, 16<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		l.out = l.out[:0]
		more := h.take(l, b[:n])
		if len(l.out) > 0 {
			if _, err := c.Write(l.out); err != nil {
				return
			}
		}
		if !more {
			return
		}
	}
}
