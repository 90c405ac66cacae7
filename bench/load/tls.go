// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	stdtls "crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"pillion/bench/hist"
	"pillion/bench/pki"
	"pillion/bench/proc"
)

// TLSMode is what a load of mutual TLS repeats.
type TLSMode string

// What it repeats.
const (
	// TLSRequests sends requests on connections that stay.
	TLSRequests TLSMode = "requests"
	// TLSFull makes a connection with a full handshake, sends one request and closes.
	TLSFull TLSMode = "full"
	// TLSResumed does it with the session of the connection before.
	TLSResumed TLSMode = "resumed"
)

// TLSSpec describes a closed loop over mutual TLS. Its own CPU isn't counted, so the
// standard library will do.
type TLSSpec struct {
	Request     Request `json:"request"`
	Mode        TLSMode `json:"mode"`
	Connections int     `json:"connections"`
	// Certificates are those of both ends, Group the only key exchange on offer.
	Certificates pki.Set       `json:"certificates"`
	Group        pki.Group     `json:"group"`
	Duration     time.Duration `json:"duration"`
}

// TLSRole is the sub-command of the benchmark's own program that runs ServeTLS.
const TLSRole = "role-tls"

// TLSChild runs a load over mutual TLS in a process of its own.
func TLSChild(ctx context.Context, g *proc.Group, self string, cpus []int, spec TLSSpec) (Result, error) {
	return child(ctx, g, self, TLSRole, cpus, spec)
}

// ServeTLS reads a TLSSpec as JSON, runs it and writes the Result as JSON.
func ServeTLS(ctx context.Context, in io.Reader, out io.Writer) error {
	var spec TLSSpec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return fmt.Errorf("read the load's description: %w", err)
	}
	r, err := RunTLS(ctx, spec)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// tlsClient is one connection after the other. Owned by its goroutine.
type tlsClient struct {
	spec *TLSSpec
	cfg  *stdtls.Config
	wire []byte
	in   answer
	buf  []byte

	result Result
	times  hist.Histogram
	// failed is why the last exchange failed, for a load in which all do.
	failed error
}

// RunTLS runs a load over mutual TLS.
func RunTLS(ctx context.Context, spec TLSSpec) (Result, error) {
	if spec.Connections < 1 || spec.Duration <= 0 {
		return Result{}, fmt.Errorf("TLS load: %d connections, %v: both must be above 0", spec.Connections, spec.Duration)
	}
	cfg, err := spec.Certificates.ClientConfig(spec.Group)
	if err != nil {
		return Result{}, fmt.Errorf("TLS load: %w", err)
	}
	clients := make([]*tlsClient, spec.Connections)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range clients {
		c := &tlsClient{spec: &spec, cfg: cfg.Clone(), wire: spec.Request.Wire(), buf: make([]byte, 32<<10)}
		if spec.Mode == TLSResumed {
			c.cfg.ClientSessionCache = stdtls.NewLRUClientSessionCache(1)
		}
		clients[i] = c
		wg.Go(func() { c.run(ctx, start.Add(spec.Duration)) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	return sumTLS(clients, time.Since(start))
}

// sumTLS adds up what all clients found. If none had an answer, it says why.
func sumTLS(clients []*tlsClient, d time.Duration) (Result, error) {
	sum := Result{Duration: d}
	var times hist.Histogram
	var failed error
	for _, c := range clients {
		sum.Requests += c.result.Requests
		sum.Errors.Connect += c.result.Errors.Connect
		sum.Errors.Read += c.result.Errors.Read
		times.Merge(&c.times)
		failed = errors.Join(failed, c.failed)
	}
	if sum.Requests == 0 {
		return sum, fmt.Errorf("TLS load: no request was answered: %w", failed)
	}
	sum.Latency = latencyOf(&times)
	return sum, nil
}

// run repeats until the end. A client that fails waits before it tries again, so that
// a peer which is down isn't asked without pause.
func (c *tlsClient) run(ctx context.Context, end time.Time) {
	var nc *stdtls.Conn
	for first := true; ctx.Err() == nil && time.Now().Before(end); {
		began := time.Now()
		if nc == nil {
			var err error
			if nc, err = c.connect(ctx, first); err != nil {
				c.result.Errors.Connect++
				c.failed = err
				_ = pause(ctx, 10*time.Millisecond)
				continue
			}
		}
		err := exchange1(nc, c.wire, &c.in, c.buf)
		if err != nil {
			c.result.Errors.Read++
			c.failed = err
		} else if c.spec.Mode == TLSRequests || !first || c.spec.Mode == TLSFull {
			c.result.Requests++
			c.times.Record(time.Since(began))
		}
		first = false
		if err != nil || c.spec.Mode != TLSRequests {
			_ = nc.Close()
			nc = nil
		}
	}
	if nc != nil {
		_ = nc.Close()
	}
}

// connect makes a connection. Every one but a client's first has to resume, or not to,
// as the mode says; the first has no session yet and isn't counted.
func (c *tlsClient) connect(ctx context.Context, first bool) (*stdtls.Conn, error) {
	raw, err := (&net.Dialer{Timeout: answerTimeout}).DialContext(ctx, "tcp4", c.spec.Request.Addr)
	if err != nil {
		return nil, err
	}
	nc := stdtls.Client(raw, c.cfg)
	err = nc.SetDeadline(time.Now().Add(c.spec.Duration + answerTimeout))
	if err == nil {
		err = nc.HandshakeContext(ctx)
	}
	if err == nil && c.spec.Mode == TLSResumed && !first && !nc.ConnectionState().DidResume {
		err = errors.New("the peer didn't resume the session")
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return nc, nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// HoldTLS is Hold over mutual TLS.
func HoldTLS(ctx context.Context, req Request, n int, cfg *stdtls.Config) (*Held, error) {
	wire, in := req.Wire(), &answer{}
	return hold(ctx, req.Addr, n, func(c net.Conn) func([]byte) error {
		sealed := stdtls.Client(c, cfg) // the first exchange makes the handshake
		return func(buf []byte) error { return exchange1(sealed, wire, in, buf) }
	})
}
