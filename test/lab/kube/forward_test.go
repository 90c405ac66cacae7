// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/spdystream"
)

const forwardPath = "/api/v1/namespaces/default/pods/p/portforward"

// startForwarding starts an API with a pod, of which port 80 says who asks and
// then what it hears, and port 81 is closed.
func startForwarding(t *testing.T) *client {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	s.Dial = func(ns, pod string, port int) (net.Conn, error) {
		if port != 80 {
			return nil, errors.New("closed")
		}
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			fmt.Fprintf(far, "%s.%s: ", pod, ns)
			line, _ := bufio.NewReader(far).ReadString('\n')
			_, _ = io.WriteString(far, line)
		}()
		return near, nil
	}
	if err := s.Apply("{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: default}}"); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return &client{s, t, web.URL}
}

// TestPortForward: two connections at the same time, and one to a port that is
// closed.
func TestPortForward(t *testing.T) {
	c := startForwarding(t)
	raw, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(raw, "POST %s HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n", forwardPath)
	resp, err := nethttp.ReadResponse(bufio.NewReader(raw), nil)
	if err != nil || resp.StatusCode != nethttp.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		t.Fatalf("%v %+v", err, resp)
	}
	conn, err := spdystream.NewConnection(raw, false)
	if err != nil {
		t.Fatal(err)
	}
	go conn.Serve(spdystream.NoOpStreamHandler)
	open := func(id, port int) (data, failed *spdystream.Stream) {
		t.Helper()
		var both []*spdystream.Stream
		for _, kind := range []string{"error", "data"} {
			h := nethttp.Header{}
			h.Set("streamType", kind)
			h.Set("port", strconv.Itoa(port))
			h.Set("requestID", strconv.Itoa(id))
			s, err := conn.CreateStream(h, nil, false)
			if err != nil {
				t.Fatal(err)
			}
			both = append(both, s)
		}
		return both[1], both[0]
	}
	first, firstFailed := open(0, 80)
	second, _ := open(1, 80)
	for i, s := range []*spdystream.Stream{second, first} {
		if _, err := fmt.Fprintf(s, "hello %d\n", i); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(s); err != nil || string(text) != fmt.Sprintf("p.default: hello %d\n", i) {
			t.Errorf("%v %q", err, text)
		}
		_ = s.Close()
	}
	if text, err := io.ReadAll(firstFailed); err != nil || len(text) > 0 {
		t.Errorf("%v %q", err, text)
	}
	_, failed := open(2, 81)
	if text, err := io.ReadAll(failed); err != nil || string(text) != "closed" {
		t.Errorf("a port that is closed: %v %q", err, text)
	}
}

func TestPortForwardRefused(t *testing.T) {
	c := startForwarding(t)
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "SPDY/3.1"}
	c.ask(400, "GET", forwardPath, "", "Connection", "Upgrade", "Upgrade", "websocket")
	c.ask(400, "POST", forwardPath, "")
	c.ask(404, "POST", strings.Replace(forwardPath, "/p/", "/q/", 1), "", upgrade...)
	start(t).ask(404, "POST", forwardPath, "", upgrade...)
}
