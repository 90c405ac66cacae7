// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace. A nil one is that of this process.
type Namespace struct {
	name string   // immutable; what ip calls it
	file *os.File // immutable; holds it open
}

// openNamespace opens one that `ip netns add` made.
func openNamespace(name string) (*Namespace, error) {
	f, err := os.Open("/run/netns/" + name)
	if err != nil {
		return nil, err
	}
	return &Namespace{name, f}, nil
}

// Do calls f in the namespace: the sockets that f makes are in it for good. f
// must not leave its goroutine.
func (n *Namespace) Do(f func() error) error {
	if n == nil {
		return f()
	}
	result := make(chan error, 1)
	go func() { result <- n.enter(f) }()
	return <-result
}

// enter runs in a goroutine of its own: its thread is locked to it, and goes
// with it unless it has found its way back.
func (n *Namespace) enter(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leaving a network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// DialContext connects from the namespace to an address of numbers.
func (n *Namespace) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = n.Do(func() error {
		conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen listens in the namespace.
func (n *Namespace) Listen(network, addr string) (ln net.Listener, err error) {
	err = n.Do(func() error {
		ln, err = net.Listen(network, addr)
		return err
	})
	return ln, err
}
