// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"pillion/bench/proc"
)

// child runs a load in a process of its own, so that neither garbage collection
// nor another goroutine of the benchmark delays it. self is the benchmark's
// executable, role its sub-command; it reads the spec and writes a Result.
func child(ctx context.Context, g *proc.Group, self, role string, cpus []int, spec any) (Result, error) {
	in, err := json.Marshal(spec)
	if err != nil {
		return Result{}, err
	}
	var out bytes.Buffer
	p, err := g.Run(ctx, proc.Spec{
		Name: "the load " + role, Path: self, Args: []string{role},
		Stdin: bytes.NewReader(in), Stdout: &out, CPUs: cpus,
	})
	if err != nil {
		return Result{}, err
	}
	var r Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return Result{}, fmt.Errorf("read the result of the load %s: %w", role, err)
	}
	r.DriverCPU = p.CPU()
	return r, nil
}

// poller connects to one address and waits for many connections on one thread.
type poller struct {
	ep     int
	to     *unix.SockaddrInet4
	events []unix.EpollEvent
}

// newPoller binds the calling goroutine to its thread until close.
func newPoller(addr string) (*poller, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil || !to.Addr().Is4() {
		return nil, fmt.Errorf("%q isn't an IPv4 address and port", addr)
	}
	runtime.LockOSThread()
	// By default the kernel may wake a sleeper 50 µs late, which would add to
	// every latency (prctl(2)). It is the thread's own setting.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("set the timer slack: %w", err)
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &poller{
		ep: ep, to: &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()},
		events: make([]unix.EpollEvent, 256),
	}, nil
}

func (p *poller) close() {
	_ = unix.Close(p.ep)
	runtime.UnlockOSThread()
}

// dial opens connection number i, or returns -1 and an error. To loopback a
// blocking connect is at once.
func (p *poller) dial(i int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.Connect(fd, p.to),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetNonblock(fd, true),
		unix.EpollCtl(p.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// want changes what connection i waits for.
func (p *poller) want(i, fd int, events uint32) error {
	if err := unix.EpollCtl(p.ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(i)}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// wait sleeps until something can be read or written, at most d, and returns
// what: the Fd of an event is the connection's number. It may return early.
// A short sleep is ppoll's, on the epoll instance: epoll_wait only knows whole
// milliseconds.
func (p *poller) wait(d time.Duration) ([]unix.EpollEvent, error) {
	const coarse = 5 * time.Millisecond
	timeout := 0
	if d >= coarse {
		timeout = int(d / time.Millisecond)
	} else {
		ts := unix.NsecToTimespec(int64(max(d, 0)))
		fds := [1]unix.PollFd{{Fd: int32(p.ep), Events: unix.POLLIN}}
		n, err := unix.Ppoll(fds[:], &ts, nil)
		if errors.Is(err, unix.EINTR) || n == 0 && err == nil {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("poll: %w", err)
		}
	}
	n, err := unix.EpollWait(p.ep, p.events, timeout)
	if errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return p.events[:n], nil
}
