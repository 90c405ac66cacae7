// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"time"

	"pillion/bench/load"
	"pillion/bench/mesh"
	"pillion/bench/origin"
)

const (
	// askTimeout bounds the proof by one request.
	askTimeout = 5 * time.Second
	// checkPath is what is asked for, askSize the size of a message.
	checkPath = "/check"
	askSize   = 100
)

// question is what one request asks for.
type question struct {
	of mesh.Service
	// match sets the field that selects a subset.
	match bool
	// prefix, if there is one, begins the path: that of a further route.
	prefix string
}

// path is that of the request.
func (q question) path() string {
	if q.prefix != "" {
		return q.prefix + "check"
	}
	return checkPath
}

// ask sends one request on a connection of its own, in the protocol of the
// job's clients, and checks the answer, which the right version has to give.
func (j Job) ask(ctx context.Context, addr string, q question) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	switch j.Downstream {
	case mesh.TCP:
		return askTCP(ctx, addr)
	case mesh.WebSocket:
		return j.askWebSocket(ctx, addr, q)
	}
	return j.askHTTP(ctx, addr, q)
}

// dial connects for one proof.
func dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", addr)
	if err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); ok {
		err = c.SetDeadline(d)
	}
	return c, err
}

// askTCP has bytes echoed, and the end of one direction be the end of the other.
func askTCP(ctx context.Context, addr string) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	message := bytes.Repeat([]byte{'m'}, askSize)
	if _, err := c.Write(append([]byte{origin.Echo}, message...)); err != nil {
		return err
	}
	got := make([]byte, askSize)
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("the echo: %w", err)
	}
	if !bytes.Equal(got, message) {
		return fmt.Errorf("%q comes back as %q", message, got)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if n, err := c.Read(got); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the end of what was sent: %d bytes, %v, want the end", n, err)
	}
	return nil
}

// askWebSocket has one message echoed.
func (j Job) askWebSocket(ctx context.Context, addr string, q question) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	req := load.Request{Host: q.of.Authority(), Path: q.path()}
	if q.match {
		req.Fields = [][2]string{{mesh.MatchField, mesh.MatchValue}}
	}
	if _, err := c.Write(load.WebSocketHello(req)); err != nil {
		return err
	}
	r := bufio.NewReader(c)
	resp, err := nethttp.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if err := j.judge(resp, nethttp.StatusSwitchingProtocols, q); err != nil {
		return err
	}
	message, size := load.WebSocketMessage(askSize)
	if _, err := c.Write(message); err != nil {
		return err
	}
	got := make([]byte, size)
	if _, err := io.ReadFull(r, got); err != nil {
		return fmt.Errorf("the echo of a message: %w", err)
	}
	if got[0] != message[0] || int(got[1]) != askSize {
		return fmt.Errorf("the echo of a message begins with %x", got[:2])
	}
	return nil
}

// askHTTP sends a request over HTTP/1.1 or HTTP/2, of gRPC a unary call.
func (j Job) askHTTP(ctx context.Context, addr string, q question) error {
	req, want, err := j.request(ctx, "http://"+addr+q.path())
	if err != nil {
		return err
	}
	req.Host = q.of.Authority()
	if q.match {
		req.Header.Set(mesh.MatchField, mesh.MatchValue)
	}
	if j.Inbound {
		token, _, err := Token()
		if err != nil {
			return err
		}
		req.Header.Set("authorization", "Bearer "+token)
	}
	// Neither a proxy of the environment nor a connection of an earlier try.
	transport := &nethttp.Transport{DisableKeepAlives: true, DisableCompression: true, Protocols: protocols(j.Downstream.IsHTTP2())}
	if j.TLS.In {
		if transport.TLSClientConfig, err = j.TLS.Certificates.ClientConfig(j.TLS.Group); err != nil {
			return err
		}
		req.URL.Scheme = "https"
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := j.judge(resp, nethttp.StatusOK, q); err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case len(body) != want:
		return fmt.Errorf("%s: body of %d bytes, want %d", req.Host, len(body), want)
	case j.Downstream == mesh.GRPC && resp.Trailer.Get("grpc-status") != "0":
		return fmt.Errorf("%s: grpc-status is %q in the trailers, want 0", req.Host, resp.Trailer.Get("grpc-status"))
	}
	return nil
}

// judge checks the head of a response.
func (j Job) judge(resp *nethttp.Response, status int, q question) error {
	switch got := resp.Header.Get(origin.VersionField); {
	case resp.StatusCode != status:
		return fmt.Errorf("%s: status %d, want %d", q.of.Authority(), resp.StatusCode, status)
	case got != j.wants(q):
		return fmt.Errorf("%s%s: answered by version %q, want %q (%s set: %v)", q.of.Authority(), q.path(), got, j.wants(q), mesh.MatchField, q.match)
	}
	return nil
}

// request returns the request that proves the job and the size of the answer's
// body.
func (j Job) request(ctx context.Context, url string) (req *nethttp.Request, size int, err error) {
	if j.Downstream != mesh.GRPC {
		req, err = nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, url, nil)
		return req, origin.BodySize, err
	}
	message := load.GRPCMessage(askSize)
	if req, err = nethttp.NewRequestWithContext(ctx, nethttp.MethodPost, url, bytes.NewReader(message)); err != nil {
		return nil, 0, err
	}
	req.Header.Set("content-type", "application/grpc")
	req.Header.Set("te", "trailers")
	return req, len(message), nil
}

// wants is the version that answers a request: the first of the routes that
// match it says so.
func (j Job) wants(q question) string {
	if q.match && q.prefix == "" && j.Subsets {
		return origin.Versions[1]
	}
	return origin.Versions[0]
}
