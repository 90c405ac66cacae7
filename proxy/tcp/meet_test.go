// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"bytes"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"pillion/proxy/http"
)

// fakePeers has frames of a mark, a length and a name.
type fakePeers struct{ failed atomic.Int32 }

const mark = "IAM-----" // frameHead bytes

func frame(name string) string { return mark + string(rune(len(name))) + name }

func (*fakePeers) Begin(protocol, agreed string, _ []string) ([]byte, bool) {
	if protocol != agreed {
		return nil, false
	}
	return []byte(frame("proxy")), true
}

func (*fakePeers) Read(b []byte, principal string) http.PeerRead {
	n := min(len(b), len(mark))
	switch {
	case string(b[:n]) != mark[:n]:
		return http.PeerRead{}
	case len(b) <= n:
		return http.PeerRead{More: true}
	case b[n] > 100:
		return http.PeerRead{Broken: true}
	}
	end := n + 1 + int(b[n])
	if len(b) < end {
		return http.PeerRead{More: true}
	}
	return http.PeerRead{Skip: end, Peer: &http.Peer{Workload: string(b[n+1:end]) + " of " + principal}}
}

func (f *fakePeers) Failed() { f.failed.Add(1) }

// TestMeet: what a client tells of itself is taken out of what the host gets, wherever
// the pieces begin and end; who tells nothing loses nothing.
func TestMeet(t *testing.T) {
	for _, c := range []struct {
		name   string
		pieces []string
		host   string // what it gets
		peer   string
		failed int32
		broken bool
	}{
		{"a frame and data", []string{frame("web") + "data"}, "data", "web of spiffe://web", 0, false},
		{"a frame alone", []string{frame("web")}, "", "web of spiffe://web", 0, false},
		{"byte by byte", strings.Split(frame("web")+"data", ""), "data", "web of spiffe://web", 0, false},
		{"only data", []string{"IAMNOBODY, I say"}, "IAMNOBODY, I say", "", 0, false},
		{"little data that begins like a frame", []string{"IAM"}, "IAM", "", 0, false},
		{"nothing", nil, "", "", 0, false},
		{"a frame that breaks off", []string{frame("web")[:10]}, "", "", 1, false},
		{"a frame of no end", []string{mark + "\xff" + "data"}, "", "", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			peers := &fakePeers{}
			dial, hosts := sockets(t)
			r := newRig(t, dial, oneHost, func(cfg *Config) { cfg.Peers, cfg.PeerProtocol = peers, "meet" })
			near, client := socketPair(t)
			info := &http.ConnInfo{Remote: "10.0.0.1:4711", TLS: &http.TLSInfo{ALPN: "meet"}, PeerPrincipal: "spiffe://web"}
			done := make(chan bool)
			r.served.Go(func() {
				r.proxy.Serve(near, info).Run()
				close(done)
			})
			get(t, client, frame("proxy")) // we don't wait for its
			host := <-hosts
			for _, p := range c.pieces {
				send(t, client, p)
			}
			_ = client.CloseWrite()
			got, err := io.ReadAll(host)
			if (err != nil) != c.broken || string(got) != c.host {
				t.Errorf("the host gets %q, %v", got, err)
			}
			if !c.broken {
				data := bytes.Repeat([]byte("answer"), 100)
				send(t, host, string(data))
				get(t, client, string(data))
			}
			_ = host.CloseWrite()
			<-done
			r.end()
			if n := peers.failed.Load(); n != c.failed {
				t.Errorf("%d frames failed", n)
			}
			// All of a connection counts for the same workloads, so that filters are told
			// of it once it is known who is there.
			opened := 0
			for _, e := range r.told.all() {
				who := ""
				if e.Peer != nil {
					who = e.Peer.Workload
				}
				if who != c.peer {
					t.Errorf("filters were told of %q", who)
				}
				if e.Opened {
					opened++
				}
			}
			if opened != 1 {
				t.Errorf("opened %d times", opened)
			}
			if n := r.cfg.Stats.RxBytes.Value(); n != uint64(len(c.host)) {
				t.Errorf("%d bytes of data were counted", n)
			}
		})
	}
}

// TestMeetsNobody: where ALPN has agreed on something else, nothing is told and the
// first bytes are data whatever they look like.
func TestMeetsNobody(t *testing.T) {
	dial, hosts := sockets(t)
	r := newRig(t, dial, oneHost, func(cfg *Config) { cfg.Peers, cfg.PeerProtocol = &fakePeers{}, "meet" })
	near, client := socketPair(t)
	r.served.Go(func() { r.proxy.Serve(near, &http.ConnInfo{TLS: &http.TLSInfo{ALPN: "other"}}).Run() })
	host := <-hosts
	send(t, client, frame("web"))
	get(t, host, frame("web"))
	send(t, host, "x")
	get(t, client, "x")
	r.end()
}
