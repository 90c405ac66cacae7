// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"

	"pillion/proxy/stats"
	"pillion/test/rig"
)

// asks waits until an authorization server has been asked n times about a case.
func (lab *authzLab) asks(name string, n int) {
	lab.t.Helper()
	rig.Until(lab.t, fmt.Sprintf("%s is asked about %d times", name, n), func() error {
		lab.mu.Lock()
		defer lab.mu.Unlock()
		if got := len(lab.asked[name]); got != n {
			return fmt.Errorf("it is %d", got)
		}
		return nil
	})
}

// settles waits until nobody waits for an authorization server any more.
func (lab *authzLab) settles(cluster string) {
	lab.t.Helper()
	rig.Until(lab.t, "no call is left", func() error {
		for _, m := range lab.registry.List(stats.Query{}) {
			if m.Name == "cluster."+cluster+".upstream_rq_active" && m.Value != 0 {
				return fmt.Errorf("%v are", m.Value)
			}
		}
		return nil
	})
}

var patient = map[string]string{
	"web":  `failure_mode_allow: true, http_service: {server_uri: {uri: "http://az", cluster: az, timeout: 600s}}`,
	"grpc": `failure_mode_allow: true, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: azg}, timeout: 600s}`,
}

// TestExtAuthzHoldsUpItsOwn: a request of HTTP/2 that waits for the server holds
// up no other one of its connection, and one that its client resets ends the
// call.
func TestExtAuthzHoldsUpItsOwn(t *testing.T) {
	for variant, azCluster := range map[string]string{"web": "az", "grpc": "azg"} {
		held := &authzCase{name: "held", variant: variant, web: &webAnswer{hang: true}, fail: context.DeadlineExceeded}
		free := &authzCase{name: "free", variant: variant, web: ok(), grpc: allow(nil)}
		lab := newOwnAuthzLab(t, patient, []*authzCase{held, free})
		rt := &nethttp.Transport{Protocols: onlyHTTP2()}
		defer rt.CloseIdleConnections()
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		gone := make(chan error)
		go func() {
			_, err := get(ctx, rt, lab.ours[variant], "held")
			gone <- err
		}()
		lab.asks("held", 1)
		if text, err := get(t.Context(), rt, lab.ours[variant], "free"); err != nil || text != "200 hello" {
			t.Errorf("%s: the other request: %q, %v", variant, text, err)
		}
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: the held request ends with %v", variant, err)
		}
		lab.settles(azCluster)
		lab.mu.Lock()
		if n := len(lab.seen["held"]); n != 0 {
			t.Errorf("%s: the origin saw what was never allowed", variant)
		}
		lab.mu.Unlock()
	}
}

func get(ctx context.Context, rt nethttp.RoundTripper, addr, name string) (string, error) {
	req, err := nethttp.NewRequestWithContext(ctx, "GET", "http://"+addr+"/"+name, nil)
	if err != nil {
		return "", err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", string(body)), err
}

// TestExtAuthzDyingServer: a server that dies at any point of its answer denies.
func TestExtAuthzDyingServer(t *testing.T) {
	const whole = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	after := make(chan int, 1)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := nethttp.ReadRequest(bufio.NewReader(nc)); err == nil {
				n := <-after
				_, _ = io.WriteString(nc, whole[:n])
			}
			nc.Close()
		}
	}()
	s := serve(t, origin(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) { _, _ = io.WriteString(w, "in") }),
		`{name: a, typed_config: {"@type": type.googleapis.com/`+extAuthzType+`, http_service: {server_uri: {uri: "http://a", cluster: az, timeout: 20s}}}}, `,
		`{match: {prefix: /}, route: {cluster: c}}`, tcpCluster("az", "", ln.Addr().String()))
	for n := range len(whole) + 1 {
		after <- n
		resp, body := ask(t, s.addr, 1, nil)
		want, text := 403, ""
		if n == len(whole) {
			want, text = 200, "in"
		}
		if resp.StatusCode != want || body != text {
			t.Errorf("after %d octets: %d %q", n, resp.StatusCode, body)
		}
	}
}

// TestExtAuthzExpect: a client that waits to be asked for its body is asked, and
// the host gets the body without asking.
func TestExtAuthzExpect(t *testing.T) {
	c := &authzCase{name: "expect", variant: "body", web: ok()}
	lab := newOwnAuthzLab(t, map[string]string{"body": authzVariants["body"]}, []*authzCase{c})
	nc, err := net.Dial("tcp", lab.ours["body"])
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(rig.Patience))
	rd := bufio.NewReader(nc)
	_, _ = io.WriteString(nc, "POST /expect HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n")
	line, err := rd.ReadString('\n')
	if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = rd.ReadString('\n')
	_, _ = io.WriteString(nc, "3\r\nabc\r\n3\r\ndef\r\n0\r\nx-t: 1\r\n\r\n")
	resp, err := nethttp.ReadResponse(rd, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%+v, %v", resp, err)
	}
	_ = resp.Body.Close()
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if seen := strings.Join(lab.seen["expect"], "\n"); !strings.Contains(seen, `body "abcdef"`) || strings.Contains(seen, "expect:") {
		t.Errorf("the origin saw %s", seen)
	}
	if asked := strings.Join(lab.asked["expect"], "\n"); !strings.Contains(asked, `body "abcdef"`) || !strings.Contains(asked, `x-envoy-auth-partial-body: ["false"]`) {
		t.Errorf("the server saw %s", asked)
	}
}

// TestExtAuthzMergesExtensions holds that extensions of all levels come
// together, and other settings are those of the most specific one.
func TestExtAuthzMergesExtensions(t *testing.T) {
	pack := func(m *extauthzv3.CheckSettings) *anypb.Any {
		a, err := anypb.New(&extauthzv3.ExtAuthzPerRoute{Override: &extauthzv3.ExtAuthzPerRoute_CheckSettings{CheckSettings: m}})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	both, err := mergeExtAuthz(pack(&extauthzv3.CheckSettings{ContextExtensions: map[string]string{"a": "1", "b": "1"}, DisableRequestBodyBuffering: true}),
		pack(&extauthzv3.CheckSettings{ContextExtensions: map[string]string{"b": "2"}}))
	if err != nil {
		t.Fatal(err)
	}
	m := &extauthzv3.ExtAuthzPerRoute{}
	if err := both.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	s := m.GetCheckSettings()
	if len(s.GetContextExtensions()) != 2 || s.GetContextExtensions()["b"] != "2" || s.GetDisableRequestBodyBuffering() {
		t.Errorf("got %v", s)
	}
	if _, err := mergeExtAuthz(&anypb.Any{TypeUrl: "x"}, both); err == nil {
		t.Error("another type is taken")
	}
}
