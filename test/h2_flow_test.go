// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pillion/test/rig"
	"pillion/test/wire"
)

// flowLab is the proxy before an origin of HTTP/1 that answers /size/N with N
// octets, and one of HTTP/2 that does so too, and reads of uploads only what
// its first windows hold.
func flowLab(t *testing.T) *rig.Proxy {
	t.Helper()
	size := func(path string) []byte {
		n, _ := strconv.Atoi(strings.TrimPrefix(path, "/size/"))
		return make([]byte, n)
	}
	app := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, string(size(r.Target)))
	})
	multi := wire.NewH2Origin(t, rig.Patience, wire.H2Options{NoCredit: true}, func(c *wire.H2, id uint32) {
		if s := c.Snapshot(id); s.Get(":method") == "GET" && c.Head(id, false, wire.Fields{field(":status", "200")}) == nil {
			_ = c.Data(id, true, size(s.Get(":path"))) // an error shows at the client
		}
	})
	return startSubject(t, nil, fill(t, t.TempDir(), "two-protocols.yaml", "h1", app.Port(), "h2", multi.Port()))
}

// TestSlowStream: a stream whose client takes nothing holds back its own
// response, and none of the 199 beside it on the same connection: each of
// them is whole before the slow one goes on. As that doesn't depend on how
// fast the machine is, no time is taken.
func TestSlowStream(t *testing.T) {
	t.Parallel()
	p := flowLab(t)
	for _, host := range []string{"app", "multi"} {
		t.Run(host, func(t *testing.T) {
			const large, others, small = 8 << 20, 199, 256 << 10
			c, err := wire.DialH2(p.HTTP, rig.Patience, wire.H2Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			slow := c.NewStream()
			c.Withhold(slow)
			if err := c.Head(slow, true, wire.RequestHead("GET", host, fmt.Sprintf("/size/%d", large))); err != nil {
				t.Fatal(err)
			}
			const window = 65535
			if err := c.Wait(func() bool { return c.Received(slow) >= window }); err != nil {
				t.Fatalf("the slow stream's window isn't used: %v", err)
			}
			var all sync.WaitGroup
			for i := range others {
				all.Go(func() {
					s, err := c.Get(host, fmt.Sprintf("/size/%d", small))
					if err != nil || !s.Ended || len(s.Body) != small {
						t.Errorf("stream %d beside a slow one: %d octets, %v", i, len(s.Body), err)
					}
				})
			}
			all.Wait()
			if s := c.Snapshot(slow); s.Ended || len(s.Body) != window {
				t.Errorf("the slow stream got %d octets, ended %v, with a window of %d", len(s.Body), s.Ended, window)
			}
			if err := c.Credit(slow, large); err != nil {
				t.Fatal(err)
			}
			if s, err := c.Await(slow); err != nil || len(s.Body) != large {
				t.Errorf("the slow stream goes on to %d octets, want %d (%v)", len(s.Body), large, err)
			}
		})
	}
}

// TestStalledUploads: a thousand uploads of 10 MiB whose server doesn't read
// take what their windows hold, and no more.
func TestStalledUploads(t *testing.T) {
	t.Parallel()
	const conns, streams, size = 10, 100, 10 << 20
	// Each stream may have a window's worth on its way in and out, with room
	// to grow into, and the collector as much again that it hasn't taken back
	// yet. Envoy, whose windows are larger, takes in 3 GiB and more.
	const most = 4*conns*streams*(64<<10) + 32<<20
	p := flowLab(t)
	before := p.Resident(t)
	var sent, ready atomic.Int64
	var uploads sync.WaitGroup
	defer uploads.Wait() // after the connections were closed
	part := make([]byte, 8192)
	for range conns {
		c, err := wire.DialH2(p.HTTP, 10*rig.Patience, wire.H2Options{})
		if err != nil {
			t.Fatal(err)
		}
		for range streams {
			uploads.Go(func() {
				id, err := c.Open(false, wire.RequestHead("POST", "multi", "/"))
				ready.Add(1)
				for n := 0; err == nil && n < size; n += len(part) {
					if err = c.Data(id, false, part); err == nil {
						sent.Add(int64(len(part)))
					}
				}
			})
		}
		defer c.Close()
	}
	last, still := int64(-1), 0
	rig.Until(t, "all uploads have stalled", func() error {
		if now := sent.Load(); now != last || ready.Load() < conns*streams {
			last, still = now, 0
		}
		if still++; still < 50 {
			return fmt.Errorf("%d octets were sent", last)
		}
		return nil
	})
	if last == 0 || last >= conns*streams*size {
		t.Errorf("%d octets were taken of uploads that nobody reads", last)
	}
	after := p.Resident(t)
	t.Logf("%d KiB were sent; the resident memory went from %d to %d KiB", last>>10, before>>10, after>>10)
	if after > before+most {
		t.Errorf("the resident memory went from %d to %d KiB, want at most %d more", before>>10, after>>10, most>>10)
	}
	c, err := wire.DialH2(p.HTTP, rig.Patience, wire.H2Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.Get("app", "/size/5"); err != nil || len(s.Body) != 5 {
		t.Errorf("beside the uploads, a request got %v, %d octets (%v)", s.Fields, len(s.Body), err)
	}
}
