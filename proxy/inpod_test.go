// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"context"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy"
	"pillion/proxy/pod"
	"pillion/proxy/stats"
)

// TestPodHooks: what the pod's contract asks is answered from what the server
// is doing.
func TestPodHooks(t *testing.T) {
	s, err := proxy.New(proxy.Options{Paths: []string{"-"}, Stdin: strings.NewReader(""), HTTPAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if reasons := s.Health().Reasons(false); len(reasons) != 3 {
		t.Errorf("before the start: %q", reasons)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(context.Background())
	if reasons := s.Health().Reasons(false); reasons != nil {
		t.Errorf("serving: %q", reasons)
	}
	if n := s.ActiveConnections(); n != 0 {
		t.Errorf("%d connections", n)
	}
	c, err := net.Dial("tcp", s.Endpoints()[0].Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n"))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := s.ActiveConnections(); n != 1 {
		t.Errorf("%d connections", n)
	}
	var page bytes.Buffer
	if err := s.WriteStats(&page, stats.Query{Filter: regexp.MustCompile(`^server\.live`)}); err != nil || !strings.Contains(page.String(), "envoy_server_live 1") || strings.Contains(page.String(), "uptime") {
		t.Errorf("%v:\n%s", err, page.String())
	}
	s.BeginDrain(true)
	if reasons := s.Health().Reasons(false); len(reasons) != 1 || !strings.Contains(reasons[0], "draining") {
		t.Errorf("draining: %q", reasons)
	}
	s.BeginDrain(false)
	if _, err := c.Read(make([]byte, 4096)); err != nil { // the rest of the answer, then the end
		t.Logf("%v", err)
	}
}

// TestNotReadyWithoutAControlPlane: a proxy that is to be driven isn't ready on
// nothing.
func TestNotReadyWithoutAControlPlane(t *testing.T) {
	s, err := proxy.New(proxy.Options{Discovery: &proxy.Discovery{Address: "istiod.example:15012", Plaintext: true, Node: &corev3.Node{Id: "sidecar~127.0.0.1~a.b~c"}},
		Identity: proxy.Identity{CA: "istiod.example:15010"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(context.Background())
	reasons := strings.Join(s.Health().Reasons(false), "\n")
	for _, want := range []string{"CDS", "LDS", "istiod.example:15012", "no certificate", "roots of the mesh"} {
		if !strings.Contains(reasons, want) {
			t.Errorf("no %s in %q", want, reasons)
		}
	}
}

// TestAgentCounts: what the proxy asks of a control plane and of a CA is counted as Istio's
// agent counts it.
func TestAgentCounts(t *testing.T) {
	files, err := proxy.New(proxy.Options{Paths: []string{"-"}, Stdin: strings.NewReader("")})
	if err != nil {
		t.Fatal(err)
	}
	if c := files.Agent(); c != (pod.AgentCounts{}) {
		t.Errorf("without a control plane: %+v", c)
	}
	files.Shutdown(context.Background())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	_ = ln.Close()
	s, err := proxy.New(proxy.Options{Discovery: &proxy.Discovery{Address: nobody, Plaintext: true, Node: &corev3.Node{Id: "sidecar~127.0.0.1~a.b~c"}},
		Identity: proxy.Identity{CA: nobody, Timeout: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(context.Background())
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	c := s.Agent()
	for ; c.Failed == 0 || c.CA.Failed == 0; c = s.Agent() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%+v, of the CA %+v", c, *c.CA)
		}
	}
	if c.Ended != 0 || c.Unopened != 0 || c.Responses != 0 || c.CA.All < c.CA.Failed || !c.Expires.IsZero() {
		t.Errorf("%+v, of the CA %+v", c, *c.CA)
	}
}
