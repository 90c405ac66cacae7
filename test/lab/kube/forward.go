// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strconv"
	"sync"

	"github.com/moby/spdystream"
)

// Dialer connects to a port on the loopback of a pod, as the kubelet does.
type Dialer func(ns, pod string, port int) (net.Conn, error)

// Names of Kubernetes' protocol for forwarding ports.
const (
	spdy            = "SPDY/3.1"
	forwardProtocol = "portforward.k8s.io"
)

// forward answers pods/NAME/portforward: each connection that the client has
// is a pair of streams of SPDY, one with what is said and one for the error.
func (s *Server) forward(w nethttp.ResponseWriter, r *nethttp.Request, t target) error {
	if s.Dial == nil {
		return failure(nethttp.StatusNotFound, "NotFound", "no ports are forwarded here")
	}
	if r.Method != nethttp.MethodPost || r.Header.Get("Upgrade") != spdy {
		// A client begins with WebSocket, and comes again.
		return failure(nethttp.StatusBadRequest, "BadRequest", "ports are forwarded by %s", spdy)
	}
	if _, err := s.store.get(t.res, t.ns, t.name); err != nil {
		return err
	}
	c, _, err := nethttp.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Stream-Protocol-Version: %s\r\n\r\n", spdy, forwardProtocol); err != nil {
		return nil // the client has gone
	}
	conn, err := spdystream.NewConnection(c, true)
	if err != nil {
		return nil
	}
	f := &forwarding{dial: func(port int) (net.Conn, error) { return s.Dial(t.ns, t.name, port) }, halves: map[string]*spdystream.Stream{}}
	conn.Serve(f.take) // until the client ends
	return nil
}

// forwarding is one client's.
type forwarding struct {
	dial func(port int) (net.Conn, error) // immutable

	mu     sync.Mutex
	halves map[string]*spdystream.Stream // streams without their other one, by the id of the pair; guarded by mu
}

// take takes a stream, and serves the pair once both are there. No frame is
// read before it returns.
func (f *forwarding) take(s *spdystream.Stream) {
	if err := s.SendReply(nethttp.Header{}, false); err != nil {
		return
	}
	id := s.Headers().Get("requestID")
	f.mu.Lock()
	other := f.halves[id]
	if other == nil {
		f.halves[id] = s
	} else {
		delete(f.halves, id)
	}
	f.mu.Unlock()
	switch {
	case other == nil:
	case s.Headers().Get("streamType") == "error":
		go f.serve(other, s)
	default:
		go f.serve(s, other)
	}
}

// serve joins a client's stream with a port. Errors of copying are the ends of
// those that are joined.
func (f *forwarding) serve(data, failed *spdystream.Stream) {
	defer failed.Close()
	port, err := strconv.Atoi(data.Headers().Get("port"))
	if err != nil {
		_, _ = io.WriteString(failed, err.Error())
		return
	}
	c, err := f.dial(port)
	if err != nil {
		_, _ = io.WriteString(failed, err.Error())
		_ = data.Reset()
		return
	}
	defer c.Close()
	var done sync.WaitGroup
	done.Go(func() {
		_, _ = io.Copy(c, data)
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, _ = io.Copy(data, c)
	_ = data.Close()
	done.Wait()
}
