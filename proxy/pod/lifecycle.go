// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// connectionsEvery is the clock of a drain that ends with the last connection
// (istio.io/istio/pkg/envoy/agent.go).
const connectionsEvery = time.Second

// Lifecycle is how the proxy ends, as Kubernetes and Istio's hooks have it:
//
//   - SIGTERM: connections drain for a while, then the process ends.
//   - POST /drain, then SIGTERM: a native sidecar. It drains as long as the
//     application needs it and ends at the signal.
//   - POST /quitquitquit: it ends at once; a Job's application is done.
type Lifecycle struct {
	proxy    Proxy
	settings DrainSettings
	inbound  bool // only what comes in is drained
	log      *slog.Logger

	begun   atomic.Bool // draining
	drained atomic.Bool // nothing is waited for at the end
	quit    chan struct{}
	once    sync.Once // guards the closing of quit
}

// NewLifecycle returns that of a proxy. A sidecar drains what comes in: the
// application may need what it has begun itself until it ends. A gateway drains
// all.
func NewLifecycle(p *Pod, proxy Proxy, log *slog.Logger) *Lifecycle {
	return &Lifecycle{proxy: proxy, settings: p.Drain, inbound: p.Role == Sidecar, log: log, quit: make(chan struct{})}
}

// Ending tells whether the proxy drains or ends.
func (l *Lifecycle) Ending() bool { return l.begun.Load() }

// Quit is closed when the process shall end without a drain.
func (l *Lifecycle) Quit() <-chan struct{} { return l.quit }

// QuitNow ends the process without a drain.
func (l *Lifecycle) QuitNow() {
	l.drained.Store(true)
	l.begun.Store(true)
	l.once.Do(func() { close(l.quit) })
}

// DrainNow begins to drain; the process goes on until a signal ends it, which
// then waits for nothing.
func (l *Lifecycle) DrainNow() {
	l.drained.Store(true)
	l.drain()
}

func (l *Lifecycle) drain() {
	if l.begun.Swap(true) {
		return
	}
	l.log.Info("draining", "inbound only", l.inbound)
	l.proxy.BeginDrain(l.inbound)
}

// Terminate is called at the first signal and returns when the process may
// end: after the drain, when ctx ends, or when /quitquitquit was asked for.
func (l *Lifecycle) Terminate(ctx context.Context) {
	if l.drained.Load() {
		l.log.Info("ending at once: the drain was begun before")
		return
	}
	l.drain()
	if !l.settings.ExitAtZero {
		l.log.Info("ending after the drain", "wait", l.settings.Termination)
		l.wait(ctx, l.settings.Termination)
		return
	}
	l.log.Info("ending with the last connection", "wait at least", l.settings.Minimum)
	if l.wait(ctx, l.settings.Minimum) {
		l.untilZero(ctx)
	}
}

// wait reports whether all of d has passed.
func (l *Lifecycle) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.quit:
	case <-ctx.Done():
	}
	return false
}

// untilZero waits until no connection is open.
func (l *Lifecycle) untilZero(ctx context.Context) {
	for l.wait(ctx, connectionsEvery) {
		n := l.proxy.ActiveConnections()
		if n == 0 {
			l.log.Info("ending: no connection is open")
			return
		}
		l.log.Info("connections are still open", "connections", n)
	}
}
