// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"pillion/proxy/buf"
)

// Taker handles what Each has read.
type Taker interface {
	// Take handles the bytes that were appended to the buffer, and reports whether
	// to read on; the buffer must have room then. It may write to the connection,
	// and close it, but not read from it.
	Take() (more bool)
}

// States of the loop that Each runs, for Close.
const (
	eachNot    int32 = iota
	eachRuns         // the connection is in use by the poller's call
	eachCloses       // ... and is to be closed when that returns
)

// each is what Each needs to know; owned by the reader but for state.
type each struct {
	taker Taker // nil outside of Each
	told  bool  // the kernel tells what is left, see receiveLeft
	state atomic.Int32
}

// Each reads for t until it has enough, which returns nil, or until a read
// fails, with io.EOF at the end of the stream. It is a loop of Fill and t.Take
// that saves the read which finds nothing before each wait: the poller is armed
// once, so that it knows whatever comes after a read, and the kernel says with
// each read whether anything was left. It is for the reader. While it waits, in
// holds no storage if nothing is in it.
//
// A Close meanwhile, also one by t, ends the loop and takes effect when t.Take
// returns.
func (c *Conn) Each(in *buf.Buffer, t Taker) (err error) {
	if !c.each.state.CompareAndSwap(eachNot, eachRuns) {
		return net.ErrClosed
	}
	defer func() { // also of a panic of t.Take
		c.in, c.each.taker = nil, nil
		if c.each.state.Swap(eachNot) == eachCloses {
			_ = c.nc.Close()
			err = net.ErrClosed
		}
	}()
	return c.loop(in, t)
}

func (c *Conn) loop(in *buf.Buffer, t Taker) error {
	switch {
	case c.sealed != nil:
		return c.sealed.Each(in, t)
	case c.raw == nil:
		for {
			if err := c.Fill(in); err != nil {
				return err
			}
			if !t.Take() {
				return nil
			}
		}
	}
	c.in, c.each.taker, c.err = in, t, nil
	err := c.raw.Read(c.readFn)
	if err == nil {
		err = c.err
	}
	if err != nil {
		in.ReleaseIfEmpty()
	}
	return err
}

// turn is ready for Each.
func (c *Conn) turn(fd uintptr) bool {
	for {
		n, left, err := c.receiveTold(fd)
		switch {
		case err == syscall.EAGAIN:
			c.in.ReleaseIfEmpty()
			return false
		case err == nil && n == 0:
			err = io.EOF
		}
		if c.err = err; err != nil {
			return true
		}
		c.in.Commit(n)
		if !c.each.taker.Take() || c.each.state.Load() == eachCloses {
			return true
		}
		if !left {
			// What has come since that read the poller knows, and won't wait.
			c.in.ReleaseIfEmpty()
			return false
		}
	}
}

// receiveTold reads, and reports whether there may be more, or the end. A connection
// that is read only once isn't worth the call that makes the kernel tell.
func (c *Conn) receiveTold(fd uintptr) (n int, left bool, err error) {
	if c.each.told {
		return receiveLeft(fd, c.in.Free())
	}
	if n, err = receive(fd, c.in.Free(), 0); n > 0 {
		c.each.told = tellLeft(fd)
	}
	return n, true, err
}

// Close closes the connection; calls in progress fail.
func (c *Conn) Close() error {
	if c.each.state.CompareAndSwap(eachRuns, eachCloses) || c.each.state.Load() == eachCloses {
		// To close waits until the poller's call returns, which may be our own.
		return c.nc.SetDeadline(Past)
	}
	return c.nc.Close()
}

// Past is a deadline that is over: it makes calls in progress and to come fail. Immutable.
var Past = time.Unix(1, 0)

// bounded is called when a deadline was set: none may undo that of Close.
func (c *Conn) bounded(err error) error {
	if c.each.state.Load() == eachCloses {
		return c.nc.SetDeadline(Past)
	}
	return err
}
