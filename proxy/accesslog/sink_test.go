// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
)

// fakeFile is a file that can be slow or full.
type fakeFile struct {
	mu     sync.Mutex
	data   strings.Builder // guarded by mu
	writes []time.Time     // guarded by mu
	closed bool            // guarded by mu
	err    error           // guarded by mu: what Write returns
	gate   chan struct{}   // Write waits until it can take from it; nil: at once
}

func (f *fakeFile) Write(p []byte) (int, error) {
	if f.gate != nil {
		<-f.gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes = append(f.writes, time.Now())
	if f.err != nil {
		return 0, f.err
	}
	return f.data.Write(p)
}

func (f *fakeFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

// state returns what was written, and when.
func (f *fakeFile) state() (data string, writes []time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.data.String(), slices.Clone(f.writes)
}

// fakeSinks returns a registry in which path "x" is f.
func fakeSinks(f *fakeFile) (*Sinks, *sink) {
	r := NewSinks(nil)
	s := newSink("x", f, &r.counts, r.log)
	r.byPath["x"] = s
	return r, s
}

func TestSinkFlushesEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFile{}
		r, s := fakeSinks(f)
		time.Sleep(time.Hour)
		start := time.Now()
		s.write([]byte("a\n"))
		time.Sleep(300 * time.Millisecond)
		s.write([]byte("b\n"))
		synctest.Wait()
		if data, _ := f.state(); data != "" {
			t.Error("written before a second was over")
		}
		time.Sleep(time.Hour)
		s.write([]byte("c\n"))
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		got, writes := f.state()
		if got != "a\nb\nc\n" || !f.closed {
			t.Errorf("got %q, closed %v", got, f.closed)
		}
		if len(writes) != 2 || writes[0].Sub(start) != FlushInterval {
			t.Errorf("writes at %v after %v", writes, start)
		}
		s.write([]byte("late\n"))
		if _, err := r.open("x"); !errors.Is(err, errClosed) {
			t.Errorf("open after Close: %v", err)
		}
		if c := &r.counts; c.buffered.Value() != 3 || c.written.Value() != 2 || c.dropped.Value() != 1 || c.timed.Value() != 1 || c.waiting.Value() != 0 {
			t.Errorf("counts %+v", c)
		}
		if err := r.Close(); err != nil {
			t.Error("closed twice:", err)
		}
	})
}

func TestSinkFlushesWhenMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFile{}
		r, s := fakeSinks(f)
		line := []byte(strings.Repeat("x", 1023) + "\n")
		start := time.Now()
		for range flushBytes / len(line) {
			s.write(line)
		}
		synctest.Wait()
		if data, writes := f.state(); len(data) != flushBytes || !writes[0].Equal(start) {
			t.Errorf("%d octets at %v, want %d at once", len(data), writes, flushBytes)
		}
		_ = r.Close()
	})
}

// TestSlowDisk: a request never waits for the disk, and memory is bounded.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFile{gate: make(chan struct{})}
		r, s := fakeSinks(f)
		line := []byte(strings.Repeat("x", 1023) + "\n")
		const lines = 5000
		start := time.Now()
		for range lines {
			s.write(line)
			synctest.Wait()
		}
		if !time.Now().Equal(start) {
			t.Error("write waited")
		}
		if w := r.counts.waiting.Value(); w > maxBuffered+2*flushBytes {
			t.Errorf("%d octets wait", w)
		}
		dropped := r.counts.dropped.Value()
		if dropped == 0 {
			t.Error("nothing was dropped")
		}
		close(f.gate)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if got := f.data.Len() / len(line); got+int(dropped) != lines {
			t.Errorf("%d written and %d dropped of %d", got, dropped, lines)
		}
	})
}

// sayings is a log that is read piece by piece.
type sayings struct {
	mu   sync.Mutex
	said strings.Builder // guarded by mu
}

func (s *sayings) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Write(p)
}

// take returns what was said since it was last called.
func (s *sayings) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.said.Reset()
	return s.said.String()
}

// TestDroppedLinesAreTold: of lines that a slow disk costs the log is told when
// it begins, how many they are, and when it is over, once a minute at most.
func TestDroppedLinesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFile{gate: make(chan struct{})}
		told := &sayings{}
		r := NewSinks(slog.New(slog.NewTextHandler(told, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})))
		s := newSink("x", f, &r.counts, r.log)
		r.byPath["x"] = s
		line := []byte(strings.Repeat("x", maxBuffered/4))
		// wants holds what was told since it was last called.
		wants := func(when, want string) {
			t.Helper()
			synctest.Wait()
			if got := told.take(); got != want {
				t.Errorf("%s: %q was told, want %q", when, got, want)
			}
		}
		write := func(lines int) {
			for range lines {
				s.write(line)
				synctest.Wait()
			}
		}
		dropped := func(n int) string {
			return fmt.Sprintf("level=WARN msg=\"access log lines are dropped: the file takes them too slowly\" path=x lines=%d\n", n)
		}
		over := func(n int) string {
			return fmt.Sprintf("level=INFO msg=\"access log lines are dropped no more\" path=x lines=%d\n", n)
		}
		write(5) // one is being written, four wait
		wants("while the buffer holds", "")
		write(1)
		wants("at the first line", dropped(1))
		write(6)
		wants("within a minute", "")
		time.Sleep(tellInterval)
		wants("after a minute", dropped(6))
		close(f.gate) // the disk is quick again
		time.Sleep(tellInterval)
		wants("after a minute without", over(7))
		f.gate = make(chan struct{})
		write(7)
		wants("right after the end", "")
		time.Sleep(tellInterval)
		wants("a minute after the end", dropped(2))
		close(f.gate)
		time.Sleep(3 * tellInterval)
		wants("at the second end", over(2))
		f.gate = make(chan struct{})
		write(8)
		wants("long after", dropped(1))
		close(f.gate)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		s.write(line)
		wants("at the end of the proxy", dropped(2))
		time.Sleep(2 * tellInterval)
		wants("after it", "")
	})
}

// TestStuckDisk: the proxy ends even if its log can't be written.
func TestStuckDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFile{gate: make(chan struct{})}
		r, s := fakeSinks(f)
		s.write([]byte("a\n"))
		start := time.Now()
		if err := r.Close(); err == nil || !strings.Contains(err.Error(), "x: not everything could be written") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d != closeWait {
			t.Errorf("took %v", d)
		}
		close(f.gate)
	})
}

func TestFailingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFile{err: errors.New("no space")}
		var told strings.Builder
		r := NewSinks(slog.New(slog.NewTextHandler(&told, nil)))
		s := newSink("x", f, &r.counts, r.log)
		r.byPath["x"] = s
		for range 2 {
			s.write([]byte("a\n"))
			time.Sleep(2 * FlushInterval)
		}
		synctest.Wait()
		if got := told.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `level=WARN msg="access log lines are lost: check the disk and the file" path=x error="no space"`) {
			t.Errorf("told %q", got)
		}
		f.mu.Lock()
		f.err = nil
		f.mu.Unlock()
		s.write([]byte("b\n"))
		_ = r.Close()
		if got := f.data.String(); got != "b\n" || r.counts.failed.Value() != 2 || r.counts.written.Value() != 1 {
			t.Errorf("got %q, counts %+v", got, &r.counts)
		}
		if got := told.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "is written again") {
			t.Errorf("told %q", got)
		}
	})
}

func TestLogToFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	r := NewSinks(nil)
	first, err := Parse(textConfig(path, "%RESPONSE_CODE%\n"), r)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Parse(textConfig(path, "%REQ(:METHOD)%\n"), r)
	if err != nil {
		t.Fatal(err)
	}
	if first.sink != second.sink {
		t.Error("two sinks for one path")
	}
	ex := answered()
	first.Log(ex)
	second.Log(ex)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "200\nGET\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Parse(&filev3.FileAccessLog{}, NewSinks(nil)); err == nil || !strings.HasPrefix(err.Error(), "path: ") {
		t.Errorf("no path: %v", err)
	}
	if _, err := Parse(textConfig(t.TempDir(), "a"), NewSinks(nil)); err == nil || !strings.HasPrefix(err.Error(), "path: ") {
		t.Errorf("a directory: %v", err)
	}
	for _, std := range []string{"/dev/stdout", "/dev/stderr"} {
		f, err := openFile(std)
		if err != nil || f.Close() != nil {
			t.Errorf("%s: %v", std, err)
		}
	}
	if _, err := os.Stdout.Stat(); err != nil {
		t.Error("the standard output was closed:", err)
	}
}

// TestReopen rotates a log as logrotate does.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	r := NewSinks(nil)
	l, err := Parse(textConfig(path, "%ROUTE_NAME%\n"), r)
	if err != nil {
		t.Fatal(err)
	}
	ex := answered()
	ex.RouteName = "before"
	l.Log(ex)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	r.Reopen()
	waitFor(t, func() bool { _, err := os.Stat(path); return err == nil })
	ex.RouteName = "after"
	l.Log(ex)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	old, _ := os.ReadFile(path + ".1")
	now, _ := os.ReadFile(path)
	if string(old) != "before\n" || string(now) != "after\n" {
		t.Errorf("old %q, new %q", old, now)
	}
}

// TestReopenFails: a log that can't be opened again is written on.
func TestReopenFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := NewSinks(nil)
	s, err := r.open(filepath.Join(dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	r.Reopen()
	waitFor(t, func() bool { return r.counts.reopenFailed.Value() == 1 })
	s.write([]byte("a\n"))
	if err := r.Close(); err != nil || r.counts.written.Value() != 1 {
		t.Errorf("%v, %d written", err, r.counts.written.Value())
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestManyWriters: lines stay whole when many connections log at once.
func TestManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	r := NewSinks(nil)
	l, err := Parse(textConfig(path, "[%ROUTE_NAME%]\n"), r)
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 500
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			ex := answered()
			for i := range each {
				ex.RouteName = fmt.Sprint(w, "-", i)
				l.Log(ex)
			}
		})
	}
	wg.Wait()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(path)
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSuffix(string(got), "\n"), "\n") {
		if !strings.HasPrefix(line, "[") || !strings.HasSuffix(line, "]") || seen[line] {
			t.Fatalf("line %q", line)
		}
		seen[line] = true
	}
	if len(seen) != writers*each {
		t.Errorf("%d lines, want %d", len(seen), writers*each)
	}
}

// discard is a file that costs nothing.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

// TestLogAllocations: logging makes no garbage, the sink's goroutine included.
func TestLogAllocations(t *testing.T) {
	r := NewSinks(nil)
	l := logger(t, textConfig("x", istioFormat))
	l.sink = newSink("x", discard{}, &r.counts, r.log)
	r.byPath["x"] = l.sink
	ex := answered()
	for range 1000 {
		l.Log(ex)
	}
	if n := testing.AllocsPerRun(20_000, func() { l.Log(ex) }); n > 0 {
		t.Errorf("%v allocations for a line", n)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkLog(b *testing.B) {
	r := NewSinks(nil)
	l := &Logger{}
	if err := l.compile(textConfig("x", istioFormat), testEnv()); err != nil {
		b.Fatal(err)
	}
	l.sink = newSink("x", discard{}, &r.counts, r.log)
	r.byPath["x"] = l.sink
	ex := answered()
	b.ReportAllocs()
	for b.Loop() {
		l.Log(ex)
	}
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
}
