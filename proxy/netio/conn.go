// SPDX-License-Identifier: Apache-2.0

// Package netio reads and writes stream sockets with as few system calls and
// as little memory as Go's poller allows.
//
//   - A read takes its buffer from the pool only when the socket has become
//     readable, so that waiting costs no buffer.
//
//   - A loop of reads finds out with each of them whether there is more, instead of
//     by one that finds nothing.
//
//   - A write that is followed by waiting for the answer is made between the
//     arming of the poller and the wait, which saves the read that would only
//     find the socket empty. What was written is given back before the wait.
//
//   - On a TLS connection all of it holds for the socket below it.
//
// Connections that are neither (in-memory pairs of tests) take the same calls
// by plain reads and writes.
package netio

import (
	"io"
	"net"
	"syscall"
	"time"
	"unsafe"

	"pillion/proxy/buf"
)

// Conn wraps one stream connection. Reads must come from one goroutine at a
// time, and so must writes; a read and a write may run at once. Close and
// the deadline setters may be called from any goroutine.
type Conn struct {
	nc  net.Conn
	raw syscall.RawConn // nil when nc is no socket
	// sealed is nc when it is a TLS connection, and below the socket that it lies
	// over; nil otherwise.
	sealed Sealed
	below  syscall.RawConn
	// readFn, writeFn and tryFn are c.ready, c.writable and c.sendOnce, bound
	// once: a closure made per call would allocate.
	readFn, writeFn, tryFn func(fd uintptr) bool

	// Parameters and results of one call of ready; owned by the reader.
	in   *buf.Buffer
	out  *[]byte
	sent int
	n    int
	err  error
	look bool // only look
	try  bool // don't wait
	seen Peer

	each each

	// Parameter and result of one call of writable; owned by the writer.
	rest     []byte
	writeErr error
}

// Sealed is what a TLS connection offers beside net.Conn. All but TryWrite are
// for the reader, who has to be the writer, too, for WriteAwait.
type Sealed interface {
	// NetConn returns the connection below.
	NetConn() net.Conn
	// Await waits, holding no buffer, until there is something for Read to look
	// at.
	Await() error
	// TryRead is Read without the wait: 0 and no error when nothing is there.
	TryRead(p []byte) (int, error)
	// Probe looks, without waiting, for data or the end.
	Probe() (data bool, err error)
	// Truncated reports whether the end of the stream came without the peer's word
	// that it is one.
	Truncated() bool
	// WriteAwait is Write and then Await, in one go where it can. p is given back as by
	// WriteFill.
	WriteAwait(p *[]byte) (wrote int, err error)
	// Each and TryWrite are as Conn's.
	Each(in *buf.Buffer, t Taker) error
	TryWrite(p []byte) (n int, done bool, err error)
}

// Init prepares c for nc. Until then c must not be used.
func (c *Conn) Init(nc net.Conn) {
	c.nc = nc
	if s, ok := nc.(Sealed); ok {
		c.sealed = s
		if sc, ok := s.NetConn().(*net.TCPConn); ok {
			c.below, _ = sc.SyscallConn() // nil with an error, which looks quiet
		}
		return
	}
	if sc, ok := nc.(*net.TCPConn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw = raw
			c.readFn, c.writeFn, c.tryFn = c.ready, c.writable, c.sendOnce
		}
	}
}

// NetConn returns the wrapped connection.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Truncated reports whether the end of the stream, which a read has returned, may
// be somebody else's work: over TLS, where the peer didn't say that it ends here.
// It is for the reader.
func (c *Conn) Truncated() bool { return c.sealed != nil && c.sealed.Truncated() }

// ready is called by the poller: once before it waits, and after each wait.
// It reports whether the call is finished.
func (c *Conn) ready(fd uintptr) bool {
	if c.each.taker != nil {
		return c.turn(fd)
	}
	if c.look {
		c.seen = peek(fd)
		return true
	}
	if out := c.out; out != nil {
		c.out = nil
		c.sent, c.err = send(fd, *out)
		if c.err == nil && c.sent == len(*out) {
			buf.PutBytes(out)
			return false
		}
		if c.err == syscall.EAGAIN {
			c.err = nil
		}
		// A short or failed write is finished by the caller, without waiting.
		return true
	}
	n, err := receive(fd, c.in.Free(), 0)
	if err == syscall.EAGAIN {
		c.in.ReleaseIfEmpty()
		c.n, c.err = 0, nil
		return c.try
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	c.n, c.err = n, err
	return true
}

// writable is called by the poller as ready is, for writes.
func (c *Conn) writable(fd uintptr) bool {
	n, err := send(fd, c.rest)
	c.rest = c.rest[n:]
	if err == syscall.EAGAIN || err == nil && len(c.rest) > 0 {
		return false
	}
	c.writeErr = err
	return true
}

// send and receive are send(2) and recv(2). They cost less than write(2) and
// read(2), which pass the file layer. An error comes with 0 bytes.

func send(fd uintptr, p []byte) (int, error) {
	return socketCall(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

func receive(fd uintptr, p []byte, flags uintptr) (int, error) {
	return socketCall(syscall.SYS_RECVFROM, fd, p, flags)
}

func socketCall(trap, fd uintptr, p []byte, flags uintptr) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), flags, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

// Fill waits for bytes and appends what one read gives to in, which must
// have room. It returns io.EOF at the end of the stream.
func (c *Conn) Fill(in *buf.Buffer) error {
	if c.raw == nil {
		return c.fillPlain(in)
	}
	c.in = in
	err := c.raw.Read(c.readFn)
	c.in = nil
	return c.filled(in, err)
}

func (c *Conn) filled(in *buf.Buffer, err error) error {
	if err == nil {
		err = c.err
	}
	if err != nil {
		in.ReleaseIfEmpty()
		return err
	}
	in.Commit(c.n)
	return nil
}

func (c *Conn) fillPlain(in *buf.Buffer) error {
	if c.sealed != nil && in.Len() == 0 {
		if err := c.sealed.Await(); err != nil {
			return err
		}
	}
	return c.readPlain(in)
}

func (c *Conn) readPlain(in *buf.Buffer) error {
	n, err := c.nc.Read(in.Free())
	in.Commit(n)
	if n > 0 {
		return nil
	}
	in.ReleaseIfEmpty()
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// TryFill is Fill without the wait: it reports false when no bytes are there.
// On connections that are neither sockets nor TLS it always does.
func (c *Conn) TryFill(in *buf.Buffer) (bool, error) {
	if c.sealed != nil {
		n, err := c.sealed.TryRead(in.Free())
		in.Commit(n)
		in.ReleaseIfEmpty()
		return n > 0, err
	}
	if c.raw == nil {
		return false, nil
	}
	c.try = true
	before := in.Len()
	err := c.Fill(in)
	c.try = false
	return in.Len() > before, err
}

// WriteFill writes out and then waits for bytes as Fill does. wrote reports
// how many bytes of out were taken before an error. out comes from buf.GetBytes, and
// goes back when it is written, before the wait.
func (c *Conn) WriteFill(out *[]byte, in *buf.Buffer) (wrote int, err error) {
	size := len(*out)
	if c.sealed != nil && size > 0 {
		if wrote, err = c.sealed.WriteAwait(out); err != nil {
			return wrote, err
		}
		return wrote, c.readPlain(in)
	}
	if c.raw == nil || size == 0 {
		return c.writeThenFill(out, 0, in)
	}
	c.in, c.out, c.sent, c.n, c.err = in, out, 0, 0, nil
	err = c.raw.Read(c.readFn)
	c.in, c.out = nil, nil
	if c.sent < size {
		if err == nil {
			err = c.err
		}
		if err != nil {
			buf.PutBytes(out)
			return c.sent, err
		}
		return c.writeThenFill(out, c.sent, in)
	}
	return c.sent, c.filled(in, err)
}

func (c *Conn) writeThenFill(out *[]byte, from int, in *buf.Buffer) (int, error) {
	size := len(*out)
	n, err := c.Write((*out)[from:])
	buf.PutBytes(out)
	if err != nil {
		return from + n, err
	}
	return size, c.Fill(in)
}

// Write writes all of p; n < len(p) only with an error.
func (c *Conn) Write(p []byte) (n int, err error) {
	if c.raw == nil || len(p) == 0 {
		return c.nc.Write(p)
	}
	c.rest, c.writeErr = p, nil
	err = c.raw.Write(c.writeFn)
	n = len(p) - len(c.rest)
	c.rest = nil
	if err == nil {
		err = c.writeErr
	}
	return n, err
}

// WriteBuffers writes all of bufs with one system call where it can. It
// consumes bufs.
func (c *Conn) WriteBuffers(bufs *net.Buffers) error {
	if c.sealed != nil {
		return c.writeSealed(*bufs)
	}
	_, err := bufs.WriteTo(c.nc)
	return err
}

// sealedPiece is how much of a TLS connection's output is gathered: what one
// record holds.
const sealedPiece = 16 << 10

// writeSealed gathers pieces into records: each Write makes one of its own.
func (c *Conn) writeSealed(bufs net.Buffers) error {
	var room *[]byte
	defer func() {
		if room != nil {
			buf.PutBytes(room)
		}
	}()
	for _, p := range bufs {
		for len(p) > 0 {
			if room == nil || len(*room) == 0 {
				if len(p) >= sealedPiece {
					n := len(p) / sealedPiece * sealedPiece
					if _, err := c.nc.Write(p[:n]); err != nil {
						return err
					}
					p = p[n:]
					continue
				}
				if room == nil {
					room = buf.GetBytes()
				}
			}
			n := min(len(p), sealedPiece-len(*room))
			*room = append(*room, p[:n]...)
			p = p[n:]
			if len(*room) == sealedPiece {
				if _, err := c.nc.Write(*room); err != nil {
					return err
				}
				*room = (*room)[:0]
			}
		}
	}
	if room == nil || len(*room) == 0 {
		return nil
	}
	_, err := c.nc.Write(*room)
	return err
}

// Peer is what a look at an idle connection found.
type Peer uint8

// What Look finds.
const (
	PeerQuiet  Peer = iota // open, nothing to read
	PeerData               // open, bytes wait
	PeerClosed             // the peer sent FIN
	PeerReset              // the connection is broken
)

// Look asks the kernel, without waiting and without taking bytes, what the
// peer did. It is for the goroutine that reads; see Watch for others. On TLS
// connections it takes the records that have come, and data stay there to be
// read. On other connections that are no sockets it always finds PeerQuiet.
func (c *Conn) Look() Peer {
	if c.sealed != nil {
		return c.lookSealed()
	}
	if c.raw == nil {
		return PeerQuiet
	}
	c.look = true
	err := c.raw.Read(c.readFn)
	c.look = false
	if err != nil {
		return PeerReset
	}
	return c.seen
}

func (c *Conn) lookSealed() Peer {
	data, err := c.sealed.Probe()
	switch {
	case data:
		return PeerData
	case err == io.EOF:
		return PeerClosed
	case err != nil:
		return PeerReset
	}
	return PeerQuiet
}

// Watch is Look for a goroutine that is not the reader, also while a read is
// in progress.
func (c *Conn) Watch() Peer {
	raw := c.socket()
	if raw == nil {
		return PeerQuiet
	}
	got := PeerReset
	if err := raw.Control(func(fd uintptr) { got = peek(fd) }); err != nil {
		return PeerReset
	}
	return got
}

// AwaitEnd waits, for d at most, until the peer has ended its direction of the socket,
// that below TLS where there is some. false: it hasn't, it has sent more, or it broke
// the connection off before it ended it. It is for the reader of a connection that is
// of no more use: the read deadline is changed.
func (c *Conn) AwaitEnd(d time.Duration) bool {
	raw := c.socket()
	if raw == nil {
		return false
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(d))
	got := PeerQuiet
	_ = raw.Read(func(fd uintptr) bool { // that the time is up leaves it quiet
		got = peek(fd)
		return got != PeerQuiet
	})
	return got == PeerClosed
}

// AwaitAny waits until the peer has sent something or ended the connection, without a
// read: it takes less of the stack than one. Where there is no socket it doesn't wait, and
// what is in memory it doesn't know. It is for the reader.
func (c *Conn) AwaitAny() {
	if raw := c.socket(); raw != nil {
		_ = raw.Read(heard) // an error is what the next read meets, too
	}
}

func heard(fd uintptr) bool { return peek(fd) != PeerQuiet }

// socket is that of nc, or below it; nil without one.
func (c *Conn) socket() syscall.RawConn {
	if c.sealed != nil {
		return c.below
	}
	return c.raw
}

func peek(fd uintptr) Peer {
	var one [1]byte
	n, err := receive(fd, one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	switch {
	case err == syscall.EAGAIN:
		return PeerQuiet
	case err != nil:
		return PeerReset
	case n == 0:
		return PeerClosed
	}
	return PeerData
}

// SetReadDeadline bounds reads in progress and to come; zero: no bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.bounded(c.nc.SetReadDeadline(t)) }

// SetWriteDeadline bounds writes in progress and to come; zero: no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.bounded(c.nc.SetWriteDeadline(t)) }

// SetDeadline sets both.
func (c *Conn) SetDeadline(t time.Time) error { return c.bounded(c.nc.SetDeadline(t)) }

// ResetOnClose makes Close break the connection off with RST, where it can.
func (c *Conn) ResetOnClose() {
	if l, ok := c.nc.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
}

// CloseWrite sends FIN, where the connection can, and leaves reading open.
func (c *Conn) CloseWrite() error { return closeWrite(c.nc) }

// CutWrite is CloseWrite for a stream that was cut off: over TLS it sends FIN without
// close_notify, so that the peer can tell (RFC 8446 section 6.1). It is for the writer.
func (c *Conn) CutWrite() error {
	if c.sealed != nil {
		return closeWrite(c.sealed.NetConn())
	}
	return closeWrite(c.nc)
}

func closeWrite(nc net.Conn) error {
	if w, ok := nc.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}
