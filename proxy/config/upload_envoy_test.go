// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	nethttp "net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pillion/test/rig"
	"pillion/test/wire"
)

// hostWait is how long a host takes to answer, and a client to send the second half of an
// upload. What is told of it has to be told apart from what a loaded machine takes.
const hostWait = 200 * time.Millisecond

// uploadHost answers as the path says. It tells begun that half of a body has come.
type uploadHost struct {
	begun  chan struct{}
	failed atomic.Bool // the first try of a request was answered
}

func (h *uploadHost) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	if half := make([]byte, len(uploadHalf)); r.Method == nethttp.MethodPost && !h.failed.Load() {
		if _, err := io.ReadFull(r.Body, half); err != nil {
			return
		}
		h.begun <- struct{}{}
	}
	if r.URL.Path == "/early" {
		answerEarly(w, r)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	switch r.URL.Path {
	case "/late":
		<-time.After(hostWait)
	case "/retried":
		if h.failed.CompareAndSwap(false, true) {
			<-time.After(hostWait)
			w.WriteHeader(nethttp.StatusServiceUnavailable)
			return
		}
		h.failed.Store(false)
	}
	w.Header().Set("content-length", "2")
	_, _ = io.WriteString(w, "ok")
}

// answerEarly answers, and then reads the rest of the request as a connection that lives on
// needs it.
func answerEarly(w nethttp.ResponseWriter, r *nethttp.Request) {
	rc := nethttp.NewResponseController(w)
	_ = rc.EnableFullDuplex() // an error on HTTP/2, which always is
	w.Header().Set("content-length", "2")
	_, _ = io.WriteString(w, "ok")
	_ = rc.Flush()
	if r.ProtoMajor == 1 {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

const uploadHalf = "hello"

// uploadForms are the ends of a request's head, with the halves of the body.
var uploadForms = map[string][3]string{
	"no body": {"\r\n"},
	"length":  {fmt.Sprintf("Content-Length: %d\r\n\r\n", 2*len(uploadHalf)), uploadHalf, uploadHalf},
	"chunked": {"Transfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n%s\r\n", len(uploadHalf), uploadHalf), fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(uploadHalf), uploadHalf)},
}

// upload makes a request of which the second half is held back for a while, or until it is
// answered if that comes before. It returns how long the answer took from then on.
func (h *uploadHost) upload(t *testing.T, c *wire.Client, path string, form [3]string) (*wire.Response, time.Duration) {
	t.Helper()
	method := "POST"
	if form[1] == "" {
		method = "GET"
	}
	if err := c.Send(method + " " + path + " HTTP/1.1\r\nHost: a\r\n" + form[0] + form[1]); err != nil {
		t.Fatal(err)
	}
	held := time.Now()
	if form[1] != "" {
		<-h.begun
		if path != "/early" {
			<-time.After(hostWait)
			held = time.Now()
			if err := c.Send(form[2]); err != nil {
				t.Fatal(err)
			}
		}
	}
	resp, err := c.Read(method)
	if err != nil || resp.Status != 200 || string(resp.Body) != "ok" {
		t.Fatalf("%v, %v", resp, err)
	}
	return resp, time.Since(held)
}

// uploadRig serves a host that speaks HTTP/1 or HTTP/2 by Envoy and by us.
func uploadRig(t *testing.T, protocol string) (*uploadHost, []judge) {
	h := &uploadHost{begun: make(chan struct{})}
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(nethttp.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	const routes = `{match: {prefix: /}, route: {cluster: up, retry_policy: {retry_on: 5xx, num_retries: 1}}}`
	return h, bothJudges(t, httpListener("", "", routes), tcpCluster("up", protocol, s.Listener.Addr().String()))
}

// eachUpload calls f for each form of an upload, served by Envoy and by us, for hosts of
// both versions of HTTP.
func eachUpload(t *testing.T, f func(t *testing.T, h *uploadHost, j judge, name string, form [3]string)) {
	for upstream, protocol := range map[string]string{"HTTP/1": "", "HTTP/2": overHTTP2} {
		t.Run(upstream, func(t *testing.T) {
			t.Parallel()
			h, both := uploadRig(t, protocol)
			for _, j := range both {
				for name, form := range uploadForms {
					f(t, h, j, name, form)
				}
			}
		})
	}
}

// dialJudge connects to one of the two.
func dialJudge(t *testing.T, j judge) *wire.Client {
	c, err := wire.Dial(j.addr, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestServiceTimeLikeEnvoy: x-envoy-upstream-service-time is counted from the end of the
// request, however long that took to come, over all tries of it.
func TestServiceTimeLikeEnvoy(t *testing.T) {
	eachUpload(t, func(t *testing.T, h *uploadHost, j judge, name string, form [3]string) {
		for path, least := range map[string]time.Duration{"/plain": 0, "/late": hostWait, "/retried": hostWait} {
			c := dialJudge(t, j)
			resp, most := h.upload(t, c, path, form)
			said, err := strconv.ParseInt(resp.Fields.Get("x-envoy-upstream-service-time"), 10, 64)
			// A clock in whole milliseconds may begin one too early.
			if took := time.Duration(said) * time.Millisecond; err != nil || took < least-time.Millisecond || took > most+time.Millisecond {
				t.Errorf("%s says of %s, %s: %v, want %v to %v (%v)", j.name, path, name, took, least, most, err)
			}
			if conn := resp.Fields.Get("connection"); conn != "" {
				t.Errorf("%s ends the connection of %s, %s: %q", j.name, path, name, conn)
			}
			_ = c.Close()
		}
	})
}

// TestEarlyAnswerLikeEnvoy: an answer that comes before all of the request has says nothing
// of how long the host took, and ends an HTTP/1 connection, also if the rest comes behind it.
func TestEarlyAnswerLikeEnvoy(t *testing.T) {
	eachUpload(t, func(t *testing.T, h *uploadHost, j judge, name string, form [3]string) {
		if form[1] == "" {
			return
		}
		for _, rest := range []string{"", form[2]} {
			c := dialJudge(t, j)
			resp, _ := h.upload(t, c, "/early", form)
			service, conn := resp.Fields.Get("x-envoy-upstream-service-time"), resp.Fields.Get("connection")
			if service != "" || conn != "close" {
				t.Errorf("%s says of %s: service time %q, connection %q", j.name, name, service, conn)
			}
			_ = c.Send(rest)
			if _, err := c.WaitClosed(); err != nil {
				t.Errorf("%s, %s, rest %q: %v", j.name, name, rest, err)
			}
			_ = c.Close()
		}
	})
}
