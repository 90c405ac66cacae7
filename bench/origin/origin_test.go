// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"pillion/bench/proc"
	"pillion/bench/proc/proctest"
)

// TestMain lets this test's binary be the origin.
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == Role:
		err = ServeFiles(ctx)
	case len(os.Args) == 3 && os.Args[1] == SealedRole:
		err = ServeSealed(ctx, os.Args[2])
	default:
		proctest.Run(m)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// started runs an origin for a test.
func started(t *testing.T) *Origin {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := Start(g, self, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// answered reads one response and checks it.
func answered(t *testing.T, r *bufio.Reader, status int, version string) *nethttp.Response {
	t.Helper()
	resp, err := nethttp.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status || resp.Header.Get(VersionField) != version {
		t.Fatalf("status %d from version %q, want %d from %q", resp.StatusCode, resp.Header.Get(VersionField), status, version)
	}
	if status == nethttp.StatusOK && len(body) != BodySize {
		t.Fatalf("body of %d bytes, want %d", len(body), BodySize)
	}
	return resp
}

func TestRequests(t *testing.T) {
	o := started(t)
	get := "GET / HTTP/1.1\r\nhost: a\r\n\r\n"
	post := "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\n\r\nhello"
	cases := []struct {
		name    string
		pieces  []string // written one by one
		answers int
	}{
		{"one", []string{get}, 1},
		{"pipelined", []string{get + get + get}, 3},
		{"head in pieces", []string{get[:7], get[7:20], get[20:]}, 1},
		{"head ends between the line ends", []string{get[:len(get)-2], get[len(get)-2:]}, 1},
		{"body", []string{post}, 1},
		{"body in pieces", []string{post[:len(post)-3], post[len(post)-3:]}, 1},
		{"body apart", []string{post[:len(post)-5], post[len(post)-5:] + get}, 2},
		{"empty body", []string{strings.Replace(post, ": 5\r\n\r\nhello", ": 0\r\n\r\n", 1) + get}, 2},
		{"large body", []string{strings.Replace(post, ": 5\r\n\r\nhello", ": 600000\r\n\r\n"+strings.Repeat("\r\n\r\n", 150000), 1)}, 1},
	}
	for i, addr := range o.Addrs[HTTP] {
		for _, c := range cases {
			t.Run(Versions[i]+"/"+c.name, func(t *testing.T) {
				conn := dial(t, addr)
				r := bufio.NewReader(conn)
				for _, p := range c.pieces {
					if _, err := io.WriteString(conn, p); err != nil {
						t.Fatal(err)
					}
				}
				for range c.answers {
					if resp := answered(t, r, 200, Versions[i]); resp.Close {
						t.Fatal("it closes a connection that could be kept")
					}
				}
				// Nothing more came, and the connection still works.
				if _, err := io.WriteString(conn, get); err != nil {
					t.Fatal(err)
				}
				answered(t, r, 200, Versions[i])
			})
		}
	}
}

// TestLargeAnswer asks for two that come after one another, as a client does that is
// slower than the origin.
func TestLargeAnswer(t *testing.T) {
	conn := dial(t, started(t).Addrs[HTTP][1])
	const request = "GET " + LargePath + " HTTP/1.1\r\nhost: a\r\n\r\n"
	if _, err := io.WriteString(conn, request+request+"GET / HTTP/1.1\r\nhost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for range 2 {
		resp, err := nethttp.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.Header.Get(VersionField) != "v2" || string(got) != strings.Repeat(body, LargeSize/BodySize) {
			t.Fatalf("%d octets, %v", len(got), err)
		}
	}
	answered(t, r, 200, "v2")
}

func TestClosing(t *testing.T) {
	o := started(t)
	cases := []struct {
		name, request string
		status        int // 0: no answer at all
	}{
		{"asked to", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 200},
		{"asked to, with a body", "POST / HTTP/1.1\r\nconnection: Close\r\ncontent-length: 2\r\n\r\nab", 200},
		{"chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501},
		{"bad length", "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 501},
		{"endless head", "GET / HTTP/1.1\r\n" + strings.Repeat("x: y\r\n", maxHead/4), 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conn := dial(t, o.Addrs[HTTP][0])
			if _, err := io.WriteString(conn, c.request); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			if c.status != 0 {
				version := ""
				if c.status == 200 {
					version = "v1"
				}
				if !answered(t, r, c.status, version).Close {
					t.Error("the answer doesn't say that it closes")
				}
			}
			if n, err := io.Copy(io.Discard, r); n > 0 || err != nil && c.status != 0 {
				t.Errorf("after the answer: %d bytes, %v, want the end", n, err)
			}
		})
	}
}
