// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	nethttp "net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// The limits of a probe; kubelet's are the same.
const (
	maxProbeBody     = 10 << 10
	maxRedirects     = 10
	defaultProbeTime = time.Second
)

// appProbes answers the paths that stand for the application's probes.
type appProbes struct {
	Probes
	log     *slog.Logger
	clients map[string]*nethttp.Client // by path, of HTTP probes; immutable
}

func newAppProbes(p Probes, log *slog.Logger) *appProbes {
	a := &appProbes{Probes: p, log: log, clients: map[string]*nethttp.Client{}}
	for path, prober := range p.ByPath {
		if prober.HTTPGet != nil {
			a.clients[path] = a.newClient()
		}
	}
	return a
}

// dialer makes connections that traffic rules let pass: they come from the
// source that inbound traffic comes from. They linger for a second at most, so
// that probes of many pods don't use up the ports of the node
// (kubernetes/kubernetes issue 89898).
func (a *appProbes) dialer() *net.Dialer {
	return &net.Dialer{
		LocalAddr: &net.TCPAddr{IP: a.Source.AsSlice()},
		Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) {
				failed = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1, Linger: 1})
			})
			return errors.Join(err, failed)
		},
	}
}

func (a *appProbes) newClient() *nethttp.Client {
	return &nethttp.Client{
		Transport: &nethttp.Transport{
			DialContext: a.dialer().DialContext,
			// The kubelet verifies no certificate either: a probe asks whether the
			// application is well, not who it is.
			TLSClientConfig:     &stdtls.Config{InsecureSkipVerify: true},
			TLSHandshakeTimeout: 10 * time.Second,
			DisableKeepAlives:   !a.KeepAlive,
			IdleConnTimeout:     90 * time.Second,
			ForceAttemptHTTP2:   a.HTTP2,
		},
		CheckRedirect: func(r *nethttp.Request, via []*nethttp.Request) error {
			if r.URL.Hostname() != via[0].URL.Hostname() {
				return nethttp.ErrUseLastResponse // what is elsewhere isn't the application
			}
			if len(via) >= maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			return nil
		},
	}
}

// ServeHTTP runs one probe.
func (a *appProbes) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	p := a.ByPath[r.URL.Path]
	if p == nil {
		answer(w, nethttp.StatusBadRequest, fmt.Sprintf("there is no probe of the application at %s\n", r.URL.Path))
		return
	}
	ctx := r.Context()
	if within := p.within(r.URL.Path); within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, within)
		defer cancel()
		answerWithin(w, within+5*time.Second)
	}
	var err error
	switch {
	case p.HTTPGet != nil:
		err = a.get(ctx, w, r, p.HTTPGet)
	case p.TCPSocket != nil:
		err = a.connect(ctx, int(p.TCPSocket.Port))
	default:
		err = a.checkHealth(ctx, p.GRPC, r.UserAgent())
	}
	switch {
	case err != nil:
		a.log.Warn("a probe of the application failed", "path", r.URL.Path, "reason", err)
		answer(w, nethttp.StatusInternalServerError, err.Error()+"\n")
	case p.HTTPGet == nil:
		w.WriteHeader(nethttp.StatusOK)
	}
}

// within is the time that a probe has; 0 for a lifecycle hook, which takes what
// it takes: the kubelet has a grace period for it.
func (p *Prober) within(path string) time.Duration {
	d := time.Duration(p.TimeoutSeconds) * time.Second
	if d == 0 && strings.HasPrefix(path, "/app-health/") {
		return defaultProbeTime
	}
	return d
}

// get asks the application and hands on status and body. An error means that
// nothing was written.
func (a *appProbes) get(ctx context.Context, w nethttp.ResponseWriter, from *nethttp.Request, p *HTTPGet) error {
	scheme := "http"
	if p.Scheme == "HTTPS" {
		scheme = "https"
	}
	path := p.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	port := strconv.Itoa(int(p.Port))
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, scheme+"://"+net.JoinHostPort(a.Host, port)+path, nil)
	if err != nil {
		return fmt.Errorf("the probe's path %q: %w", p.Path, err)
	}
	for name, values := range from.Header {
		req.Header[name] = values
	}
	for _, name := range []string{"Connection", "Upgrade", "Te", "Transfer-Encoding", "Keep-Alive"} {
		req.Header.Del(name) // they were about the kubelet's connection
	}
	req.Host = from.Host
	if host, at, err := net.SplitHostPort(from.Host); err == nil && at == strconv.Itoa(a.StatusPort) {
		req.Host = net.JoinHostPort(host, port)
	}
	for _, h := range p.HTTPHeaders {
		if strings.EqualFold(h.Name, "host") {
			req.Host = h.Value
			continue
		}
		req.Header.Set(h.Name, h.Value)
	}
	res, err := a.clients[from.URL.Path].Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 && res.StatusCode < 400 {
		w.WriteHeader(nethttp.StatusOK) // kubelet counts a redirect that it doesn't follow as well
		return nil
	}
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(res.Body, maxProbeBody)) // an error means that one of both is gone; the status stands
	return nil
}

// connect opens a connection.
func (a *appProbes) connect(ctx context.Context, port int) error {
	c, err := a.dialer().DialContext(ctx, "tcp", net.JoinHostPort(a.Host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return c.Close()
}

// checkHealth asks the standard health service over plaintext, as the kubelet
// does.
func (a *appProbes) checkHealth(ctx context.Context, p *GRPC, userAgent string) error {
	addr := net.JoinHostPort(a.Host, strconv.Itoa(int(p.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(userAgent), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return a.dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	req := &grpc_health_v1.HealthCheckRequest{}
	if p.Service != nil {
		req.Service = *p.Service
	}
	res, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, req)
	switch {
	case status.Code(err) == codes.Unimplemented:
		return fmt.Errorf("the application has no service grpc.health.v1.Health: %w", err)
	case err != nil:
		return err
	case res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING:
		return fmt.Errorf("the application says %s", res.GetStatus())
	}
	return nil
}
