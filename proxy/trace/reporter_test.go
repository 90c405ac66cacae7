// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pillion/proxy/proxytest"
)

// stubCollector takes batches of span names. sent has what it was given; err and hold are
// what becomes of it.
type stubCollector struct {
	mu   sync.Mutex
	sent []string      // guarded by mu
	err  error         // guarded by mu
	hold chan struct{} // Send waits until it is closed; nil doesn't
}

func (c *stubCollector) Append(batch []byte, s *Span) []byte {
	return append(append(batch, s.Name...), ' ')
}

func (c *stubCollector) Send(batch []byte, spans int, cancel <-chan struct{}) error {
	if c.hold != nil {
		select {
		case <-c.hold:
		case <-cancel:
			return errors.New("cancelled")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := bytes.Count(batch, []byte(" ")); n != spans {
		return errors.New("the number of spans is wrong")
	}
	c.sent = append(c.sent, string(batch))
	return c.err
}

func (c *stubCollector) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.sent...)
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestReporterWaitsForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, counts := &stubCollector{}, &Counts{}
		r := NewReporter(c, counts, 0, discard())
		r.Report(&Span{Name: []byte("a")})
		time.Sleep(FlushInterval - 1)
		r.Report(&Span{Name: []byte("b")})
		synctest.Wait()
		if got := c.got(); len(got) != 0 {
			t.Fatalf("sent before its time: %q", got)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if got := c.got(); len(got) != 1 || got[0] != "a b " {
			t.Fatalf("sent %q", got)
		}
		if counts.Sent.Value() != 2 || counts.Timed.Value() != 1 || counts.Batches.Value() != 1 {
			t.Errorf("counted %d sent, %d timed, %d batches", counts.Sent.Value(), counts.Timed.Value(), counts.Batches.Value())
		}
		// No goroutine is left when no spans come any more, and one comes back.
		time.Sleep(2 * FlushInterval)
		synctest.Wait()
		if r.mu.Lock(); r.running {
			t.Error("a goroutine waits for spans")
		}
		r.mu.Unlock()
		r.Report(&Span{Name: []byte("c")})
		time.Sleep(FlushInterval)
		synctest.Wait()
		if got := c.got(); len(got) != 2 || got[1] != "c " {
			t.Errorf("sent %q after a rest", got)
		}
		r.Close(time.Second)
	})
}

func TestReporterSendsFullBatches(t *testing.T) {
	for name, span := range map[string]*Span{
		"many": {Name: []byte("a")},
		"big":  {Name: bytes.Repeat([]byte("b"), flushBytes/10)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, counts := &stubCollector{}, &Counts{}
				r := NewReporter(c, counts, 0, discard())
				n := 0
				for ; len(c.got()) == 0 && n <= flushSpans; n++ {
					r.Report(span)
					synctest.Wait()
				}
				if n > flushSpans || name == "big" && n > 10 {
					t.Errorf("a batch was sent after %d spans", n)
				}
				if counts.Timed.Value() != 0 {
					t.Error("a full batch was sent by the clock")
				}
				r.Close(time.Second)
			})
		})
	}
}

// TestReporterIsBounded: a collector that takes nothing costs bounded memory and no
// request its time.
func TestReporterIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, counts := &stubCollector{hold: make(chan struct{})}, &Counts{}
		r := NewReporter(c, counts, 0, discard())
		for range flushSpans { // the batch that hangs
			r.Report(&Span{Name: []byte("a")})
		}
		synctest.Wait()
		for range maxSpans + 7 {
			r.Report(&Span{Name: []byte("b")})
		}
		if counts.Dropped.Value() != 7 {
			t.Errorf("%d spans were dropped, want 7", counts.Dropped.Value())
		}
		close(c.hold)
		r.Close(time.Second)
		if counts.Sent.Value() != flushSpans+maxSpans {
			t.Errorf("%d spans were sent", counts.Sent.Value())
		}
		r.Report(&Span{Name: []byte("late")})
		if counts.Dropped.Value() != 8 {
			t.Error("a span after the end isn't counted")
		}
	})
}

// TestReporterOfFewSpans: a small bound is a smaller batch, too.
func TestReporterOfFewSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, counts := &stubCollector{}, &Counts{}
		r := NewReporter(c, counts, 2, discard())
		for range 3 {
			r.Report(&Span{Name: []byte("a")})
		}
		synctest.Wait()
		if got := c.got(); len(got) != 1 || got[0] != "a a " || counts.Dropped.Value() != 1 {
			t.Errorf("sent %q, %d dropped", got, counts.Dropped.Value())
		}
		r.Close(time.Second)
	})
}

func TestReporterCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, counts := &stubCollector{hold: make(chan struct{})}, &Counts{}
		r := NewReporter(c, counts, 0, discard())
		r.Report(&Span{Name: []byte("a")})
		began := time.Now()
		r.Close(2 * time.Second)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("it took %v", took)
		}
		if counts.Lost.Value() != 1 || counts.Failed.Value() != 1 {
			t.Errorf("counted %d lost, %d failed", counts.Lost.Value(), counts.Failed.Value())
		}
		r.Close(time.Second) // again
	})
}

// TestReporterComplains: once a minute, with the number and the reason.
func TestReporterComplains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c, counts := &stubCollector{err: errors.New("503 from the collector")}, &Counts{}
		r := NewReporter(c, counts, 0, slog.New(slog.NewTextHandler(&log, nil)))
		for range 14 { // 70 seconds
			r.Report(&Span{Name: []byte("a")})
			time.Sleep(FlushInterval)
			synctest.Wait()
		}
		r.Close(time.Second)
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "spans=1 ") || !strings.Contains(lines[1], "spans=12 ") ||
			!strings.Contains(lines[1], "503 from the collector") {
			t.Errorf("logged:\n%s", log.String())
		}
		if counts.Lost.Value() != 14 || counts.Sent.Value() != 0 {
			t.Errorf("counted %d lost, %d sent", counts.Lost.Value(), counts.Sent.Value())
		}
	})
}

func TestReporterConcurrently(t *testing.T) {
	c, counts := &stubCollector{}, &Counts{}
	r := NewReporter(c, counts, 0, discard())
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for range 2_000 {
				r.Report(&Span{Name: []byte("a")})
			}
		})
	}
	work.Wait()
	r.Close(time.Minute)
	if n := counts.Sent.Value() + counts.Dropped.Value(); n != 8_000 {
		t.Errorf("%d of 8000 spans are accounted for", n)
	}
}

func TestReporterAllocatesNothing(t *testing.T) {
	c := &stubCollector{}
	r := NewReporter(c, &Counts{}, 0, discard())
	defer r.Close(time.Second)
	span := &Span{Name: bytes.Repeat([]byte("a"), 400)}
	for range 100 { // the batch has memory
		r.Report(span)
	}
	proxytest.NoAllocs(t, "a span", func() { r.Report(span) })
}

func TestReportersShareAndForget(t *testing.T) {
	rs := NewReporters(discard())
	get := func(key string) *Reporter { return rs.Get(key, &rs.Zipkin, 0, &stubCollector{}) }
	a, b := get("a"), get("b")
	if a == b || get("a") != a {
		t.Error("a key has another's reporter, or two of its own")
	}
	runtime.KeepAlive(a)
	a = nil
	runtime.GC()
	get("c") // which looks for what is gone
	if _, there := rs.byKey["a"]; there {
		t.Error("a reporter that nobody has is remembered")
	}
	if get("b") != b {
		t.Error("a reporter that somebody has was forgotten")
	}
	rs.Close(time.Second)
	b.Report(&Span{})
	if rs.Zipkin.Dropped.Value() != 1 {
		t.Error("a span after the end was taken")
	}
	get("e").Report(&Span{})
	if rs.Zipkin.Dropped.Value() != 2 {
		t.Error("a reporter made after the end takes spans")
	}
}
