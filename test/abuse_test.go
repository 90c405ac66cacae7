// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"pillion/test/rig"
	"pillion/test/wire"
)

// smuggled is a target that stands in the bodies and the tails of the abusive
// requests. No origin may ever get a request for it.
const smuggled = "/smuggled"

// abuse is a request that a client sends to make the proxy and an origin
// disagree on where messages end, or to break the proxy.
type abuse struct {
	name string
	raw  string // {{host}} stands for the name of a service
	// status lists what may be answered; 0 is closing without an answer.
	status []int
	// stays: the message is fine after all, so the connection may go on.
	stays bool
	// partial: the origin may have got the beginning of the request, since
	// its head was fine. Without it the origin may see nothing at all.
	partial bool
	// check looks at what the origin got, byte for byte.
	check func(seen string) error
}

// lane is one origin with the name of its service, so that cases can run side
// by side and each knows that what its origin saw was its own.
type lane struct {
	host   string
	origin *wire.Origin
}

// newLanes runs the proxy, built with the race detector, in front of several
// origins.
func newLanes(t *testing.T, n int, origin func() *wire.Origin) (*rig.Proxy, chan lane) {
	t.Helper()
	lanes := make(chan lane, n)
	var b strings.Builder
	for i := range n {
		l := lane{fmt.Sprintf("lane-%d", i), origin()}
		fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s, namespace: default}
spec:
  hosts: [%[1]s.default.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: %s}}]
---
`, l.host, l.origin.Port())
		lanes <- l
	}
	path := t.TempDir() + "/lanes.yaml"
	write(t, path, b.String())
	p := rig.Start(t, binaries.Race(t), rig.Options{}, path)
	t.Cleanup(func() {
		if strings.Contains(p.Stderr.String(), "DATA RACE") || strings.Contains(p.Stderr.String(), "panic") {
			t.Error("the proxy's log tells of a data race or a panic")
		}
	})
	return p, lanes
}

func TestHTTP1Abuse(t *testing.T) {
	t.Parallel()
	p, lanes := newLanes(t, 8, func() *wire.Origin {
		return wire.NewOrigin(t, "strict", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
			return wire.Text(w, r, "ok")
		})
	})
	before := p.Scrape(t)
	t.Run("cases", func(t *testing.T) {
		names := map[string]bool{}
		for _, a := range slices.Concat(lengthAbuse(), codingAbuse(), chunkAbuse(), lineAbuse(), startLineAbuse(), hostAbuse(), limitAbuse(), hopAbuse()) {
			if names[a.name] {
				t.Fatalf("two cases are called %s", a.name)
			}
			names[a.name] = true
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				l := <-lanes
				defer func() { lanes <- l }()
				a.try(t, p, l)
			})
		}
		if len(names) < 150 {
			t.Errorf("there are %d cases, want at least 150", len(names))
		}
	})
	after := p.Scrape(t)
	if n := after.Sum("envoy_http_downstream_cx_protocol_error") - before.Sum("envoy_http_downstream_cx_protocol_error"); n < 50 {
		t.Errorf("downstream_cx_protocol_error went up by %v only", n)
	}
	wantNoLeak(t, p, before)
}

// try sends one abusive request, judges by the answer, by the connection and
// by the bytes that the origin saw, and makes sure that the proxy still
// serves others.
func (a abuse) try(t *testing.T, p *rig.Proxy, l lane) {
	l.origin.Record()
	c, err := wire.Dial(p.HTTP, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw := strings.ReplaceAll(a.raw, "{{host}}", l.host)
	// A proxy that has answered and closed may not take all of it.
	sendErr := c.Send(raw)
	method, _, _ := strings.Cut(raw, " ")
	resp, err := c.Read(method)
	status := 0
	switch {
	case resp != nil:
		status = resp.Status
	case sendErr == nil && err != nil && !errors.Is(err, io.EOF) && !wire.IsReset(err):
		t.Fatalf("the answer: %v", err)
	}
	if !slices.Contains(a.status, status) {
		t.Errorf("answered %d, want one of %v", status, a.status)
	} else if !a.stays || status != 200 {
		if _, err := c.WaitClosed(); err != nil {
			t.Errorf("after %d: %v", status, err)
		}
	}
	// The next request must be served whatever became of this one; when its
	// answer is here, the origin has seen all that it will see of the case.
	next := do(t, p.HTTP, get(l.host, "/next"))
	if next.Status != 200 || string(next.Body) != "ok" {
		t.Errorf("the next request got %d, %q", next.Status, next.Body)
	}
	a.judge(t, l.origin.Recorded(), status)
}

// judge looks at the bytes that an origin saw of a case and of the request
// after it.
func (a abuse) judge(t *testing.T, seen string, status int) {
	t.Helper()
	seen, _, ok := strings.Cut(seen, "GET /next HTTP/1.1\r\n")
	if !ok {
		t.Errorf("the origin saw no next request: %.500q", seen)
	}
	for _, verb := range []string{"GET ", "POST "} {
		for line := range strings.Lines(seen) {
			if strings.HasPrefix(line, verb+smuggled) && !a.stays {
				t.Errorf("the origin saw the smuggled request: %.500q", seen)
			}
		}
	}
	if status != 200 && !a.partial && seen != "" {
		t.Errorf("the request was refused, yet the origin saw %.500q", seen)
	}
	if status != 200 && strings.Contains(seen, "\r\n0\r\n\r\n") {
		t.Errorf("the request was refused, yet the origin saw a complete one: %.500q", seen)
	}
	if strings.Contains(strings.ReplaceAll(seen, "\r\n", ""), "\r") || strings.Contains(strings.ReplaceAll(seen, "\r\n", ""), "\n") {
		t.Errorf("the origin saw a bare CR or LF: %.500q", seen)
	}
	if status == 200 && a.check != nil {
		if err := a.check(seen); err != nil {
			t.Errorf("%v; the origin saw %.500q", err, seen)
		}
	}
}

// wantNoLeak waits until the proxy has as many goroutines as before, but for
// a few, and compares its memory.
func wantNoLeak(t *testing.T, p *rig.Proxy, before rig.Metrics) {
	t.Helper()
	rig.Until(t, "the goroutines of the cases have ended", func() error {
		if was, now := before.Sum("go_goroutines"), p.Scrape(t).Sum("go_goroutines"); was == 0 || now > was+20 {
			return fmt.Errorf("there are %v, at first there were %v", now, was)
		}
		return nil
	})
	const most = 64 << 20 // of a build with the race detector
	if was, now := before.Sum("process_resident_memory_bytes"), p.Scrape(t).Sum("process_resident_memory_bytes"); was == 0 || now > was+most {
		t.Errorf("the resident memory went from %v to %v bytes", was, now)
	}
}

// has makes a check: the origin's bytes contain each of the parts, regardless
// of case, unless it begins with "!".
func has(parts ...string) func(string) error {
	return func(seen string) error {
		lower := strings.ToLower(seen)
		for _, part := range parts {
			not := strings.HasPrefix(part, "!")
			if strings.Contains(lower, strings.ToLower(strings.TrimPrefix(part, "!"))) == not {
				return fmt.Errorf("what the origin saw has to hold %q (with a ! not to)", part)
			}
		}
		return nil
	}
}
