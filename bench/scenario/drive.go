// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"time"

	"pillion/bench/load"
	"pillion/bench/mesh"
	"pillion/bench/origin"
	"pillion/bench/peer"
)

// closedLoop drives a peer as fast as it goes.
func (s *session) closedLoop(ctx context.Context, r *peer.Running, d time.Duration) (load.Result, error) {
	req := s.repeated(r)
	req.Close = s.Close
	if s.sc.Sealed == In {
		mode := s.Handshakes
		if mode == "" {
			mode = load.TLSRequests
		}
		res, err := load.TLSChild(ctx, s.Group, s.Self, s.otherCPUs(), load.TLSSpec{
			Request: req, Mode: mode, Connections: s.sc.Connections, Certificates: s.certs, Group: s.sc.group(), Duration: d,
		})
		return res, errors.Join(err, r.Alive())
	}
	switch s.sc.Downstream {
	case mesh.HTTP1:
		wrk := load.Wrk{Path: s.Wrk, Dir: s.Dir, Threads: wrkThreads, CPUs: s.otherCPUs()}
		res, err := wrk.Run(ctx, s.Group, req, s.sc.Connections, d)
		return res, errors.Join(err, r.Alive())
	case mesh.HTTP2:
		h2load := load.H2Load{Path: s.H2Load, Dir: s.Dir, CPUs: s.otherCPUs()}
		res, err := h2load.Run(ctx, s.Group, req, s.sc.Connections, max(1, s.sc.Streams), d)
		return res, errors.Join(err, r.Alive())
	}
	return s.ownLoad(ctx, r, req, 0, 0, d)
}

// openLoop drives a peer at a fixed rate.
func (s *session) openLoop(ctx context.Context, r *peer.Running, rate float64) (load.Result, error) {
	req := s.repeated(r)
	return s.ownLoad(ctx, r, req, rate, openWarmup, s.Duration)
}

// repeated is the request that the loads repeat.
func (s *session) repeated(r *peer.Running) load.Request {
	req := s.request(s.sc, r.Addr)
	req.Body = s.Body
	if s.Large {
		req.Path = origin.LargePath
	}
	return req
}

// ownLoad runs our own load for the scenario's protocol.
func (s *session) ownLoad(ctx context.Context, r *peer.Running, req load.Request, rate float64, warmup, d time.Duration) (load.Result, error) {
	var res load.Result
	var err error
	switch s.sc.Downstream {
	case mesh.HTTP1:
		res, err = load.OpenChild(ctx, s.Group, s.Self, s.otherCPUs(), load.OpenSpec{
			Request: req, Connections: s.sc.Connections, Rate: rate, Warmup: warmup, Duration: d,
		})
	case mesh.TCP, mesh.WebSocket:
		spec := load.SocketSpec{Addr: req.Addr, Connections: s.sc.Connections, Rate: rate, Warmup: warmup, Duration: d}
		spec.Hello, spec.Message, spec.Answer = []byte{origin.Echo}, make([]byte, s.Body), s.Body
		if s.sc.Downstream == mesh.WebSocket {
			spec.Hello, spec.Upgrade = load.WebSocketHello(req), true
			spec.Message, spec.Answer = load.WebSocketMessage(s.Body)
		}
		res, err = load.SocketChild(ctx, s.Group, s.Self, s.otherCPUs(), spec)
	default:
		spec := load.HTTP2Spec{
			Request: req, Connections: s.sc.Connections, Streams: max(1, s.sc.Streams), Rate: rate, Warmup: warmup, Duration: d,
		}
		switch {
		case s.Messages:
			spec.Mode = load.Messages
		case s.sc.Downstream == mesh.GRPC:
			spec.Mode = load.Unary
		default:
			spec.Want = origin.BodySize
		}
		res, err = load.HTTP2Child(ctx, s.Group, s.Self, s.otherCPUs(), spec)
	}
	return res, errors.Join(err, r.Alive())
}
