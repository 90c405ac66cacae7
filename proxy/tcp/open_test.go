// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"

	"pillion/proxy/accesslog"
	"pillion/proxy/http"
)

var oneHost = []string{"10.0.0.1:80"}

// TestHalfClose: the end of one direction is passed on as such, the other one goes on,
// and when both have ended the connection has. All that moved is counted and logged,
// however much it is: small pieces are copied, large ones spliced.
func TestHalfClose(t *testing.T) {
	for _, size := range []int{0, 5, 1 << 20} {
		for _, clientFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d bytes, client first %v", size, clientFirst), func(t *testing.T) {
				logs := newLog(t)
				dial, hosts := sockets(t)
				r := newRig(t, dial, oneHost, func(c *Config) { c.AccessLogs = logs.loggers })
				near, client := socketPair(t)
				info, done := r.serve(near)
				host, c := <-hosts, r.clusters.Get("c")
				first, second, firstText := client, host, "from the client"
				if !clientFirst {
					first, second, firstText = host, client, "from the host"
				}
				data := bytes.Repeat([]byte{'x'}, size)
				go func() {
					_, _ = first.Write(append([]byte(firstText), data...))
					_ = first.CloseWrite()
				}()
				if got, err := io.ReadAll(second); err != nil || len(got) != len(firstText)+size || !strings.HasPrefix(string(got), firstText) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				select {
				case <-done:
					t.Fatal("one end ended both directions")
				default:
				}
				send(t, second, "and back")
				get(t, first, "and back")
				_ = second.CloseWrite()
				if n, err := first.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("after the end: %d bytes, %v", n, err)
				}
				<-done
				r.end()
				received, sent := int64(len(firstText)+size), int64(len("and back"))
				if !clientFirst {
					received, sent = sent, received
				}
				o, st := info.Outcome(), r.cfg.Stats
				if o.Received != received || o.Sent != sent || o.Flags != 0 || o.ClusterName != "c" || o.Upstream.Address != oneHost[0] || o.UpstreamLocal == "" {
					t.Errorf("outcome %+v", o)
				}
				if st.RxBytes.Value() != uint64(received) || st.TxBytes.Value() != uint64(sent) {
					t.Errorf("counted %d and %d bytes", st.RxBytes.Value(), st.TxBytes.Value())
				}
				if c.Stats.CxTxBytes.Value() != uint64(received) || c.Stats.CxRxBytes.Value() != uint64(sent) {
					t.Errorf("the cluster's counters are wrong")
				}
				if got, want := logs.lines(t), fmt.Sprintf("- %d %d c %s 1\n", received, sent, oneHost[0]); got != want {
					t.Errorf("logged %q, want %q", got, want)
				}
				var told [2]uint64
				for _, e := range r.told.all() {
					told[0], told[1] = told[0]+e.Received, told[1]+e.Sent
				}
				if told != [2]uint64{uint64(received), uint64(sent)} {
					t.Errorf("filters were told of %v bytes", told)
				}
			})
		}
	}
}

// TestReset: a connection that is broken off on one side is on the other, also where
// nothing is read any more, which the tracker finds.
func TestReset(t *testing.T) {
	for _, byClient := range []bool{true, false} {
		for _, afterEnd := range []bool{false, true} {
			t.Run(fmt.Sprintf("by the client %v, after its FIN %v", byClient, afterEnd), func(t *testing.T) {
				dial, hosts := sockets(t)
				r := newRig(t, dial, oneHost, nil)
				near, client := socketPair(t)
				_, done := r.serve(near)
				breaks, other := client, <-hosts
				if !byClient {
					breaks, other = other, breaks
				}
				send(t, breaks, "x")
				get(t, other, "x")
				if afterEnd {
					_ = breaks.CloseWrite()
					if _, err := other.Read(make([]byte, 1)); err != io.EOF {
						t.Fatal(err)
					}
				}
				_ = breaks.SetLinger(0)
				_ = breaks.Close()
				for open := afterEnd; open; {
					r.tracker.sweep(http.Now())
					select {
					case <-done:
						open = false
					case <-time.After(time.Millisecond):
					}
				}
				<-done
				if _, err := other.Write([]byte("y")); err == nil { // the socket tells its error once
					_, err = other.Read(make([]byte, 1))
					if !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the other side gets %v", err)
					}
				} else if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("the other side gets %v", err)
				}
				r.end()
			})
		}
	}
}

// inMemory has one connection served to its host within a bubble of synctest, with the
// tracker at work.
func inMemory(t *testing.T, set func(*Config), f func(t *testing.T, r *rig, client, host net.Conn, info *http.ConnInfo, done <-chan struct{})) {
	synctest.Test(t, func(t *testing.T) {
		dial, hosts := pipes()
		r := newRig(t, dial, oneHost, set)
		ctx, stop := context.WithCancel(t.Context())
		go r.tracker.Run(ctx)
		near, client := net.Pipe()
		info, done := r.serve(near)
		host := <-hosts
		synctest.Wait()
		f(t, r, client, host, info, done)
		client.Close()
		host.Close()
		r.end()
		stop()
		synctest.Wait()
	})
}

// closed tells whether the other end of an in-memory connection was closed.
func closed(nc net.Conn) bool {
	_ = nc.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := nc.Read(make([]byte, 1))
	_ = nc.SetReadDeadline(time.Time{})
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

func TestIdleTimeout(t *testing.T) {
	idle := func(c *Config) { c.IdleTimeout = 10 * time.Second }
	inMemory(t, idle, func(t *testing.T, r *rig, client, host net.Conn, info *http.ConnInfo, done <-chan struct{}) {
		start := time.Now()
		for range 5 { // what moves keeps it open, whoever sends it
			time.Sleep(8 * time.Second)
			send(t, client, "x")
			get(t, host, "x")
			time.Sleep(8 * time.Second)
			send(t, host, "y")
			get(t, client, "y")
		}
		<-done
		if took := time.Since(start); took < 90*time.Second || took > 92*time.Second {
			t.Errorf("it ended after %v, want 10 s after the last byte", took)
		}
		if !closed(client) || !closed(host) || r.cfg.Stats.IdleTimeout.Value() != 1 || r.cfg.Stats.RxBytes.Value() != 5 {
			t.Errorf("client closed %v, host closed %v, %d idle", closed(client), closed(host), r.cfg.Stats.IdleTimeout.Value())
		}
		if o := info.Outcome(); o.Flags != 0 || o.Received != 5 || o.Sent != 5 {
			t.Errorf("outcome %+v", o)
		}
	})
	inMemory(t, nil, func(t *testing.T, r *rig, client, host net.Conn, _ *http.ConnInfo, done <-chan struct{}) {
		time.Sleep(100 * time.Hour) // without a limit there is none
		send(t, client, "x")
		get(t, host, "x")
	})
}

// TestSlowConnectIsNotIdle: a connection is idle when nothing moves on it, not when its
// host takes time to be reached.
func TestSlowConnectIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, hosts := pipes()
		r := newRig(t, func(ctx context.Context, address string) (net.Conn, error) {
			time.Sleep(4 * time.Second)
			return dial(ctx, address)
		}, oneHost, func(c *Config) { c.IdleTimeout = 2 * time.Second })
		ctx, stop := context.WithCancel(t.Context())
		go r.tracker.Run(ctx)
		near, client := net.Pipe()
		_, done := r.serve(near)
		go func() { _, _ = client.Write([]byte("hello")) }()
		host := <-hosts
		get(t, host, "hello")
		client.Close()
		host.Close()
		<-done
		r.end()
		stop()
		synctest.Wait()
	})
}

func TestMaxDuration(t *testing.T) {
	limit := func(c *Config) { c.MaxDuration = 10 * time.Second }
	inMemory(t, limit, func(t *testing.T, r *rig, client, host net.Conn, info *http.ConnInfo, done <-chan struct{}) {
		for range 9 {
			time.Sleep(time.Second)
			send(t, client, "x")
			get(t, host, "x")
		}
		time.Sleep(3 * time.Second)
		<-done
		if r.cfg.Stats.MaxDuration.Value() != 1 || info.Outcome().Flags != http.FlagDurationTimeout || !closed(client) || !closed(host) {
			t.Errorf("%d too long, flags %s", r.cfg.Stats.MaxDuration.Value(), info.Outcome().Flags)
		}
	})
}

// TestTold: filters hear of a connection when it has its host, while it goes on, if
// anything has moved, and at its end.
func TestTold(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, r *rig, client, host net.Conn, _ *http.ConnInfo, done <-chan struct{}) {
		want := func(when string, opened, closed bool, received, sent uint64) {
			t.Helper()
			e := r.told.all()
			if len(e) != 1 || e[0].Opened != opened || e[0].Closed != closed || e[0].Received != received || e[0].Sent != sent || e[0].Host.Address != oneHost[0] {
				t.Errorf("%s: %+v", when, e)
			}
		}
		want("at first", true, false, 0, 0)
		send(t, client, "abc")
		get(t, host, "abc")
		time.Sleep(DefaultTellEvery + 2*sweepEvery)
		want("after some time", false, false, 3, 0)
		time.Sleep(time.Hour)
		if e := r.told.all(); len(e) != 0 {
			t.Errorf("nothing has moved: %+v", e)
		}
		send(t, host, "de")
		get(t, client, "de")
		client.Close()
		host.Close()
		<-done
		want("at the end", false, true, 0, 2)
	})
}

// TestDrain: connections have as long as the drain has, those that come when all is
// over have none.
func TestDrain(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, r *rig, client, host net.Conn, info *http.ConnInfo, done <-chan struct{}) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		drained := make(chan time.Duration, 2)
		for range 2 { // whoever asks is answered
			go func() {
				r.tracker.Drain(ctx)
				drained <- time.Since(start)
			}()
		}
		time.Sleep(59 * time.Second)
		send(t, client, "still")
		get(t, host, "still")
		if a, b := <-drained, <-drained; a != time.Minute || b != time.Minute {
			t.Errorf("drained after %v and %v", a, b)
		}
		<-done
		if !closed(client) || !closed(host) || info.Outcome().Flags != 0 {
			t.Errorf("something is open, flags %s", info.Outcome().Flags)
		}
		r.tracker.Drain(ctx) // there is nothing to wait for
		r.tracker.Close()
		near, late := net.Pipe()
		_, done = r.serve(near)
		<-done
		if !closed(late) {
			t.Error("a connection that came too late is open")
		}
	})
	inMemory(t, nil, func(t *testing.T, r *rig, client, host net.Conn, _ *http.ConnInfo, done <-chan struct{}) {
		start := time.Now()
		go func() {
			time.Sleep(3 * time.Second)
			client.Close()
			host.Close()
		}()
		r.tracker.Drain(t.Context()) // ends with the last connection
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("drained after %v", took)
		}
		<-done
	})
}

// TestRetire: what would be served otherwise now has the drain time to end, in all
// generations of a chain; what another chain serves stays.
func TestRetire(t *testing.T) {
	dial, hosts := pipes()
	r := newRig(t, dial, oneHost, nil)
	r.tracker.DrainTime = time.Minute
	var clients []net.Conn
	var ended []<-chan struct{}
	serve := func(p *Proxy) {
		r.proxy = p
		near, client := net.Pipe()
		_, done := r.serve(near)
		host := <-hosts
		t.Cleanup(func() { _ = host.Close() })
		send(t, client, "x")
		get(t, host, "x")
		clients, ended = append(clients, client), append(ended, done)
	}
	first := r.proxy
	serve(first)
	next := first.Next(r.cfg)
	serve(next)
	serve(New(r.cfg, r.tracker))
	next.Retire()
	now := http.Now()
	r.tracker.sweep(now + int64(59*time.Second))
	for i := range clients {
		select {
		case <-ended[i]:
			t.Errorf("connection %d has ended before its time", i)
		default:
		}
	}
	r.tracker.sweep(now + int64(61*time.Second))
	<-ended[0]
	<-ended[1]
	select {
	case <-ended[2]:
		t.Error("a connection of another chain has ended")
	default:
	}
	r.end()
	if !closed(clients[2]) {
		t.Error("a connection is open at the end")
	}
}

// logFile is an access log.
type logFile struct {
	path    string
	sinks   *accesslog.Sinks
	loggers []*accesslog.Logger
}

func newLog(t *testing.T) *logFile {
	t.Helper()
	l := &logFile{path: filepath.Join(t.TempDir(), "log"), sinks: accesslog.NewSinks(nil)}
	const format = "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER% %UPSTREAM_HOST% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n"
	one, err := accesslog.Parse(&filev3.FileAccessLog{Path: l.path, AccessLogFormat: &filev3.FileAccessLog_LogFormat{
		LogFormat: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: format}}}}}}, l.sinks)
	if err != nil {
		t.Fatal(err)
	}
	l.loggers = append(l.loggers, one)
	return l
}

// lines ends the log and returns what is in it.
func (l *logFile) lines(t *testing.T) string {
	t.Helper()
	if err := l.sinks.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
