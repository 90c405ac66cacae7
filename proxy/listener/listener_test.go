// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/stats"
)

type handlerFunc func(nc net.Conn, info *http.ConnInfo)

func (f handlerFunc) Serve(nc net.Conn, info *http.ConnInfo) http.Rest {
	f(nc, info)
	return nil
}

// greet writes text and closes.
func greet(text string) Handler {
	return handlerFunc(func(nc net.Conn, _ *http.ConnInfo) {
		_, _ = io.WriteString(nc, text)
		_ = nc.Close()
	})
}

// lockedBuffer is a buffer that a test reads while others write.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func listen(t *testing.T, log *slog.Logger, h Handler) *Listener {
	t.Helper()
	l, err := Listen("test", "127.0.0.1:0", http.Outbound, log)
	if err != nil {
		t.Fatal(err)
	}
	l.SetHandler(h)
	l.Start()
	t.Cleanup(l.Close)
	return l
}

func read(t *testing.T, addr string) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	p, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func TestServe(t *testing.T) {
	infos := make(chan http.ConnInfo, 1)
	l := listen(t, slog.New(slog.DiscardHandler), handlerFunc(func(nc net.Conn, info *http.ConnInfo) {
		infos <- http.ConnInfo{Local: info.Local, Remote: info.Remote, Direction: info.Direction}
		_ = nc.Close()
	}))
	nc, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	got := <-infos
	if got.Local != l.Addr() || got.Remote != nc.LocalAddr().String() || got.Direction != http.Outbound {
		t.Errorf("the handler is told %+v", got)
	}
	l.SetHandler(greet("new"))
	if got := read(t, l.Addr()); got != "new" {
		t.Errorf("the new handler isn't asked: %q", got)
	}
}

func TestAddressInUse(t *testing.T) {
	l := listen(t, slog.New(slog.DiscardHandler), greet(""))
	_, err := Listen("second", l.Addr(), http.Outbound, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "listener second: "+l.Addr()+" is in use") {
		t.Errorf("the error is %v", err)
	}
}

func TestCloseFreesTheAddress(t *testing.T) {
	l := listen(t, slog.New(slog.DiscardHandler), greet("x"))
	addr := l.Addr()
	l.Close()
	again, err := Listen("again", addr, http.Outbound, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	again.SetHandler(greet("again"))
	again.Start()
	defer again.Close()
	if got := read(t, addr); got != "again" {
		t.Errorf("read %q", got)
	}
}

// TestDefectIsContained holds that a panic costs one connection, is logged and
// counted, and that the next one is served.
func TestDefectIsContained(t *testing.T) {
	var log lockedBuffer
	var served atomic.Int32
	l := listen(t, slog.New(slog.NewTextHandler(&log, nil)), handlerFunc(func(nc net.Conn, _ *http.ConnInfo) {
		if served.Add(1) == 1 {
			panic("a defect")
		}
		_, _ = io.WriteString(nc, "fine")
		_ = nc.Close()
	}))
	if got := read(t, l.Addr()); got != "" {
		t.Errorf("the broken connection says %q", got)
	}
	if got := read(t, l.Addr()); got != "fine" {
		t.Errorf("the next connection says %q", got)
	}
	if !strings.Contains(log.String(), "a defect") {
		t.Errorf("the log has %q", log.String())
	}
	r := stats.NewRegistry()
	r.Add(l)
	for _, m := range r.List(stats.Query{}) {
		if strings.HasSuffix(m.Name, "downstream_cx_defects") && m.Value == 1 {
			return
		}
	}
	t.Error("the defect isn't counted")
}
