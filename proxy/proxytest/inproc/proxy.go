// SPDX-License-Identifier: Apache-2.0

// Package inproc runs a whole proxy in the process of a test, with backends
// and clients that speak in bytes. Tests of the data path that are to run
// under the race detector use it; test/ drives the built binary instead.
package inproc

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pillion/proxy"
)

// Proxy is a running proxy. Make it with Start.
type Proxy struct {
	t      testing.TB
	dir    string
	Server *proxy.Server
	log    *lockedBuffer
	addr   map[string]string
}

// Start serves the YAML files, given by name, until the test ends.
func Start(t testing.TB, files map[string]string) *Proxy {
	t.Helper()
	p := &Proxy{t: t, dir: t.TempDir(), log: &lockedBuffer{}, addr: map[string]string{}}
	for name, text := range files {
		p.write(name, text)
	}
	s, err := proxy.New(proxy.Options{
		Paths:       []string{p.dir},
		HTTPAddr:    "127.0.0.1:0",
		AdminAddr:   "127.0.0.1:0",
		MetricsAddr: "127.0.0.1:0",
		Workload:    "client-v1",
		Labels:      map[string]string{"app": "client", "version": "v1"},
		DrainTime:   5 * time.Second,
		Logger:      slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Version:     "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	p.Server = s
	for _, e := range s.Endpoints() {
		p.addr[e.Name] = e.Addr
	}
	t.Cleanup(func() {
		p.Shutdown(context.Background())
		if t.Failed() {
			t.Logf("the proxy's log:\n%s", p.log)
		}
	})
	return p
}

// Shutdown drains the proxy until ctx is done. The end of the test does so
// unless this was called before.
func (p *Proxy) Shutdown(ctx context.Context) { p.Server.Shutdown(ctx) }

// Addr returns the address of an endpoint: "http", "admin", "metrics", or a
// listener's name.
func (p *Proxy) Addr(name string) string {
	p.t.Helper()
	a := p.addr[name]
	if a == "" {
		p.t.Fatalf("the proxy has no endpoint %q, only %v", name, p.addr)
	}
	return a
}

// Log returns what the proxy has logged so far.
func (p *Proxy) Log() string { return p.log.String() }

func (p *Proxy) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// Edit replaces a file and waits until the proxy has taken or refused it.
func (p *Proxy) Edit(name, text string) {
	p.t.Helper()
	before := p.Server.Reloads()
	p.write(name, text)
	p.WaitFor("the proxy reads its files again", func() bool { return p.Server.Reloads() > before })
}

// WaitFor polls a condition for up to ten seconds.
func (p *Proxy) WaitFor(what string, f func() bool) { WaitFor(p.t, what, f) }

// WaitFor polls a condition for up to ten seconds.
func WaitFor(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited 10 s in vain: %s", what)
		}
	}
}

// lockedBuffer collects a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
