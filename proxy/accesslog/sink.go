// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"pillion/proxy/stats"
)

// How a sink gathers lines. The interval and the size at which it writes are
// Envoy's (access_log_flush_interval, and the 64 KiB of its file writer).
const (
	FlushInterval = time.Second
	flushBytes    = 64 << 10
	// maxBuffered bounds what waits for a slow disk. Lines beyond are dropped.
	maxBuffered = 1 << 20
	// A buffer is kept for more lines up to smallBuffer, or up to keepBuffer
	// while there are as many lines as to need it.
	smallBuffer = 16 << 10
	keepBuffer  = 256 << 10
	// closeWait bounds how long Close waits for a disk, or for a reader of a
	// pipe, that has stopped.
	closeWait = 2 * time.Second
)

var errClosed = errors.New("access logs are closed")

// Sinks holds the open files of all loggers, one sink for each path. It lives
// as long as the proxy: a file stays open when no logger uses it any more,
// until Close.
type Sinks struct {
	log    *slog.Logger // immutable
	mu     sync.Mutex
	byPath map[string]*sink // guarded by mu; nil after Close
	counts counts
}

// counts are the metrics of all sinks together.
type counts struct {
	buffered, written, failed, timed, dropped, reopenFailed stats.Counter
	waiting                                                 stats.Gauge
}

// NewSinks returns an empty registry of files. What goes wrong with them is told to log;
// nil: to nobody.
func NewSinks(log *slog.Logger) *Sinks {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Sinks{log: log, byPath: map[string]*sink{}}
}

// open returns the sink for path, and opens the file on first use.
func (r *Sinks) open(path string) (*sink, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byPath == nil {
		return nil, errClosed
	}
	if s := r.byPath[path]; s != nil {
		return s, nil
	}
	file, err := openFile(path)
	if err != nil {
		return nil, err
	}
	s := newSink(path, file, &r.counts, r.log)
	r.byPath[path] = s
	return s, nil
}

// Reopen makes each sink write what it has gathered and open its file anew,
// as after a rotation. A file that can't be opened again is written on.
func (r *Sinks) Reopen() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.byPath {
		s.signal(s.reopen)
	}
}

// Close writes out what was logged and closes the files. Later lines are
// dropped. It waits two seconds at most for a file that takes nothing.
func (r *Sinks) Close() error {
	r.mu.Lock()
	sinks := r.byPath
	r.byPath = nil
	r.mu.Unlock()
	for _, s := range sinks {
		s.stop()
	}
	timeout := time.NewTimer(closeWait)
	defer timeout.Stop()
	for path, s := range sinks {
		select {
		case <-s.done:
		case <-timeout.C:
			return fmt.Errorf("access log %s: not everything could be written in %v", path, closeWait)
		}
	}
	return nil
}

// CollectStats reports the metrics under Envoy's names; write_dropped is ours.
func (r *Sinks) CollectStats(e *stats.Emitter) {
	c := &r.counts
	e.Counter("filesystem.write_buffered", "", c.buffered.Value())
	e.Counter("filesystem.write_completed", "", c.written.Value())
	e.Counter("filesystem.write_failed", "", c.failed.Value())
	e.Counter("filesystem.flushed_by_timer", "", c.timed.Value())
	e.Counter("filesystem.reopen_failed", "", c.reopenFailed.Value())
	e.Counter("filesystem.write_dropped", "", c.dropped.Value())
	e.Gauge("filesystem.write_total_buffered", "", c.waiting.Value())
}

// sink gathers lines for one file and writes them from its own goroutine,
// which sleeps while there is nothing to write.
type sink struct {
	path   string       // immutable
	counts *counts      // immutable
	log    *slog.Logger // immutable
	lines  lineBuffers

	mu     sync.Mutex
	buf    []byte // guarded by mu: lines that wait
	closed bool   // guarded by mu
	losses losses // guarded by mu

	// Signals to the goroutine; each holds one.
	some   chan struct{} // buf is not empty any more
	many   chan struct{} // buf has reached flushBytes
	reopen chan struct{}
	quit   chan struct{} // closed by stop
	done   chan struct{} // closed when the goroutine has ended

	file    io.WriteCloser // of the goroutine
	spare   []byte         // of the goroutine: takes turns with buf
	failing bool           // of the goroutine: the last write failed
}

func newSink(path string, file io.WriteCloser, c *counts, log *slog.Logger) *sink {
	signal := func() chan struct{} { return make(chan struct{}, 1) }
	s := &sink{path: path, file: file, counts: c, log: log,
		some: signal(), many: signal(), reopen: signal(), quit: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *sink) signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// write takes a line over. It never waits for the file.
func (s *sink) write(line []byte) {
	s.mu.Lock()
	if s.closed || len(s.buf)+len(line) > maxBuffered {
		s.drop()
		s.mu.Unlock()
		return
	}
	before := len(s.buf)
	s.buf = append(s.buf, line...)
	after := len(s.buf)
	s.mu.Unlock()
	s.counts.buffered.Inc()
	s.counts.waiting.Add(int64(len(line)))
	if before == 0 {
		s.signal(s.some)
	}
	if before < flushBytes && after >= flushBytes {
		s.signal(s.many)
	}
}

// stop makes the goroutine write what is there and end.
func (s *sink) stop() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	close(s.quit)
}

// run is the sink's goroutine.
func (s *sink) run() {
	defer close(s.done)
	timer := time.NewTimer(FlushInterval)
	timer.Stop()
	for {
		select {
		case <-s.some:
			timer.Reset(FlushInterval)
		case <-s.many:
			timer.Stop()
			s.flush()
		case <-timer.C:
			s.counts.timed.Inc()
			s.flush()
		case <-s.reopen:
			s.flush()
			s.openAgain()
		case <-s.quit:
			s.flush()
			_ = s.file.Close()
			return
		}
	}
}

// flush writes what has been gathered.
func (s *sink) flush() {
	s.mu.Lock()
	out := s.buf
	s.buf = s.spare[:0]
	s.mu.Unlock()
	s.spare = nil
	if len(out) > 0 {
		_, err := s.file.Write(out)
		s.note(err)
		s.counts.waiting.Add(-int64(len(out)))
	}
	// What a burst took is not kept once it has passed.
	if cap(out) <= smallBuffer || cap(out) <= keepBuffer && len(out) >= cap(out)/8 {
		s.spare = out
	}
}

// note counts the outcome of a write, and says once that writes began or
// ceased to fail.
func (s *sink) note(err error) {
	switch {
	case err != nil:
		s.counts.failed.Inc()
		if !s.failing {
			s.log.Warn("access log lines are lost: check the disk and the file", "path", s.path, "error", err)
		}
	default:
		s.counts.written.Inc()
		if s.failing {
			s.log.Info("the access log is written again", "path", s.path)
		}
	}
	s.failing = err != nil
}

func (s *sink) openAgain() {
	file, err := openFile(s.path)
	if err != nil {
		s.counts.reopenFailed.Inc()
		s.log.Warn("the access log could not be opened again; the old file is written on", "path", s.path, "error", err)
		return
	}
	_ = s.file.Close()
	s.file = file
}

// openFile opens a log for appending. The standard streams are not opened by
// name: that fails where they are sockets.
func openFile(path string) (io.WriteCloser, error) {
	switch path {
	case "/dev/stdout":
		return keepOpen{os.Stdout}, nil
	case "/dev/stderr":
		return keepOpen{os.Stderr}, nil
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
}

// keepOpen is a writer that belongs to the process.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }
