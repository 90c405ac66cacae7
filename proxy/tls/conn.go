// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/buf"
	"pillion/proxy/http"
	"pillion/proxy/netio"
)

// Conn is an encrypted connection. Its reads must come from one goroutine at
// a time, and so must its writes.
type Conn struct {
	net.Conn // the connection below; of its methods only addresses and deadlines show through

	std   *stdtls.Conn
	abort atomic.Bool // Close is to say nothing
	tap   tap
	info  http.TLSInfo // immutable after the handshake
	// Of the handshake, for the counters and for logs. Immutable after it.
	curve      stdtls.CurveID
	serverName string
	serves     bool // it is a server's; immutable

	// more says that the last read may have left decrypted bytes; ahead is
	// one that Buffered had to take out to find out; over says that a read has
	// failed, and that the next one will again. Owned by the reader.
	more, hasAhead, over bool
	ahead                [1]byte
}

func newConn(nc net.Conn) *Conn {
	c := &Conn{Conn: nc}
	c.tap.Conn = nc
	c.tap.io.Init(nc)
	return c
}

// handshake runs until it succeeds, fails, or ctx ends.
func (c *Conn) handshake(ctx context.Context) *Error {
	stop := context.AfterFunc(ctx, func() { _ = c.Conn.SetDeadline(netio.Past) })
	// A context that can't end costs no goroutine in there.
	err := c.std.HandshakeContext(context.Background())
	if !stop() && err == nil {
		err = ctx.Err() // the deadline is set already, or will be
	}
	if err != nil {
		c.tap.in.Release()
		return handshakeError(ctx, err)
	}
	return nil
}

// settle writes down what the handshake came to. f may be nil. What f says of
// the peer it has said during the handshake, and remembers.
func (c *Conn) settle(f *verifier, san string, own *keyPair) *Error {
	cs := c.std.ConnectionState()
	c.info = http.TLSInfo{Version: versionName(cs.Version), CipherSuite: suiteName(cs.CipherSuite), ALPN: cs.NegotiatedProtocol, Resumed: cs.DidResume}
	if own != nil {
		c.info.Own = own.own
	}
	c.curve, c.serverName = cs.CurveID, cs.ServerName
	if f == nil || len(cs.PeerCertificates) == 0 {
		return nil
	}
	v, err := f.verify(cs.PeerCertificates, san, time.Now())
	if err != nil {
		return err
	}
	c.info.Peer, c.info.PeerVerified = v.cert, v.verified
	if c.serves {
		// One copy of equal certificates will do for all connections. The state shares this
		// slice with the connection (crypto/tls: connectionStateLocked). A client's may be
		// that of its session, and so of other connections, which read it.
		copy(cs.PeerCertificates, v.chain)
	}
	return nil
}

// Info tells what the handshake settled.
func (c *Conn) Info() *http.TLSInfo { return &c.info }

// ServerName returns the SNI that the client sent, as it sent it.
func (c *Conn) ServerName() string { return c.serverName }

// Truncated reports whether the end of the stream that a Read returned was that of
// the connection below, without the close_notify that says that it is the peer's own
// (RFC 8446 section 6.1). Owned by the reader.
func (c *Conn) Truncated() bool { return c.tap.cut }

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Read reads decrypted bytes. While it waits it holds no buffer.
func (c *Conn) Read(p []byte) (int, error) {
	if !c.hasAhead || len(p) == 0 {
		n, err := c.readStd(p)
		c.more = n == len(p)
		return n, err
	}
	p[0], c.hasAhead = c.ahead[0], false
	n, err := c.readWaiting(p[1:])
	if err == errWouldBlock {
		err = nil
	}
	// A caller may take the byte alone and wait for more: it has to find the error,
	// which stays.
	c.more = n == len(p)-1 || err != nil
	return n + 1, err
}

// readStd reads decrypted bytes as the mode of the tap lets it.
func (c *Conn) readStd(p []byte) (int, error) {
	n, err := c.std.Read(p)
	if err != nil && err != errWouldBlock {
		c.over = true
	}
	return n, err
}

// readWaiting reads what is in memory. It returns errWouldBlock if nothing is.
func (c *Conn) readWaiting(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.tap.mode = tapMemory
	n, err := c.readStd(p)
	c.tap.mode = tapWaits
	return n, err
}

// TryRead is Read without the wait: it returns 0 and no error when the peer
// has sent nothing that a reader could have yet.
func (c *Conn) TryRead(p []byte) (int, error) {
	if c.hasAhead || len(p) == 0 {
		return c.Read(p)
	}
	c.tap.mode = tapTries
	n, err := c.readStd(p)
	c.tap.mode = tapWaits
	c.more = n == len(p)
	if err == errWouldBlock {
		err = nil
	}
	return n, err
}

// Buffered reports whether decrypted bytes, or bytes to decrypt, wait in
// memory, so that a Read need not wait for the socket. Owned by the reader.
func (c *Conn) Buffered() bool {
	if c.hasAhead || !c.inMemory() {
		return c.hasAhead
	}
	// What waits may be half a record, or one that holds no data: only a read
	// can tell.
	n, err := c.readWaiting(c.ahead[:])
	c.hasAhead = n == 1
	if err == errWouldBlock {
		c.more = false
		return false
	}
	return true // an error stays, and is what the Read will return
}

// inMemory reports whether anything may be there for a read that leaves the socket
// alone. Owned by the reader.
func (c *Conn) inMemory() bool { return c.hasAhead || c.more || c.tap.in.Len() > 0 }

// Await waits, without a buffer, until there is something for a Read to look
// at. The end of the stream and its errors are left to that Read.
func (c *Conn) Await() error {
	if c.Buffered() {
		return nil
	}
	if err := c.tap.fill(); err != nil && err != io.EOF {
		return err
	}
	return nil
}

// Probe looks, without waiting, whether the peer has sent application data or
// ended the connection; what else came, such as session tickets, is taken in.
// It is for the reader.
func (c *Conn) Probe() (data bool, err error) {
	if c.hasAhead {
		return true, nil
	}
	// Mostly nothing has come, and the kernel says so for less than a read that finds
	// nothing costs.
	if !c.over && !c.inMemory() && c.tap.io.Look() == netio.PeerQuiet {
		return false, nil
	}
	n, err := c.TryRead(c.ahead[:])
	c.hasAhead = n == 1
	return c.hasAhead, err
}

// Write encrypts and writes p, behind what TryWrite has left.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.tap.finish(); err != nil || len(p) == 0 {
		return 0, err
	}
	if len(p) <= maxRecord {
		return c.std.Write(p)
	}
	return c.writeGathered(p)
}

const (
	// maxRecord is the most that one record holds (RFC 8446 section 5.1).
	maxRecord = 16 << 10
	// gathered is how much is encrypted for one write to the socket: what fits, as
	// records, into a buffer of buf.Large.
	gathered = 3 * maxRecord
)

// writeGathered writes what makes several records.
func (c *Conn) writeGathered(p []byte) (wrote int, err error) {
	var store buf.Buffer
	store.UseLarge()
	defer store.Release()
	for len(p) > 0 {
		records := store.Free()[:0]
		c.tap.hold(&records)
		n, err := c.std.Write(p[:min(len(p), gathered)])
		if err := errors.Join(err, c.tap.letGo()); err != nil {
			return wrote, err
		}
		wrote += n
		p = p[n:]
	}
	return wrote, nil
}

// TryWrite encrypts and writes as much of p as the socket takes without
// waiting. Unless done is true, a Write of the rest, which may be empty, has
// to follow: some of what is encrypted may still wait for the socket.
func (c *Conn) TryWrite(p []byte) (n int, done bool, err error) {
	c.tap.tries.Store(true)
	defer c.tap.tries.Store(false)
	for n < len(p) {
		if c.tap.full() {
			return n, false, nil
		}
		m, err := c.std.Write(p[n:min(n+maxRecord, len(p))])
		n += m
		if err != nil {
			return n, false, err
		}
	}
	return n, !c.tap.full(), nil
}

// WriteAwait is Write and then Await. Where all of p fits into one record, that is
// sent when the poller is armed already, so that the socket needn't be asked for an
// answer which can't be there yet. It is for one goroutine that reads and writes. p
// comes from buf.GetBytes, and goes back before the wait.
func (c *Conn) WriteAwait(p *[]byte) (wrote int, err error) {
	size := len(*p)
	if size > maxRecord || c.Buffered() || c.tap.full() {
		wrote, err = c.Write(*p)
		buf.PutBytes(p)
		if err != nil {
			return wrote, err
		}
		return wrote, c.Await()
	}
	record := buf.GetBytes()
	c.tap.hold(record)
	_, err = c.std.Write(*p)
	c.tap.hold(nil)
	buf.PutBytes(p)
	if err != nil {
		buf.PutBytes(record)
		return 0, err
	}
	whole := len(*record)
	sent, err := c.tap.io.WriteFill(record, &c.tap.in)
	c.tap.sent.Add(uint64(sent))
	switch {
	case sent < whole:
		return 0, err
	case err != nil && err != io.EOF:
		return size, err
	}
	return size, nil
}

// Each is netio.Conn's.
func (c *Conn) Each(in *buf.Buffer, t netio.Taker) error {
	l := reading{c: c, in: in, taker: t}
	if !l.Take() {
		return l.err
	}
	switch err := c.tap.io.Each(&c.tap.in, &l); err {
	case nil:
		return l.err
	case io.EOF:
		_, err := c.Read(in.Free()) // which has nothing more, and knows what such an end means
		in.ReleaseIfEmpty()
		return err
	default:
		return err
	}
}

// reading is the loop of Each, which the tap's tells of ciphertext.
type reading struct {
	c     *Conn
	in    *buf.Buffer
	taker netio.Taker
	err   error
}

// Take decrypts what is in memory.
func (l *reading) Take() (more bool) {
	for {
		if !l.c.inMemory() && !l.c.over {
			l.in.ReleaseIfEmpty()
			return true
		}
		n, err := l.c.readAhead(l.in.Free())
		l.in.Commit(n)
		switch {
		case n > 0:
			if !l.taker.Take() {
				return false
			}
		case err == errWouldBlock:
			l.in.ReleaseIfEmpty()
			return l.c.tap.room()
		case err != nil:
			l.in.ReleaseIfEmpty()
			l.err = err
			return false
		}
	}
}

// readAhead is Read that leaves the socket alone: it returns errWouldBlock
// where nothing is in memory.
func (c *Conn) readAhead(p []byte) (int, error) {
	if c.hasAhead {
		return c.Read(p)
	}
	n, err := c.readWaiting(p)
	c.more = n == len(p)
	return n, err
}

// Sent returns how many bytes were written to the connection below, those of the
// handshake included.
func (c *Conn) Sent() uint64 { return c.tap.sent.Load() }

// Close sends close_notify, if that can be done at once, and closes the
// connection. It may be called from any goroutine.
func (c *Conn) Close() error {
	if c.abort.Load() {
		return c.Conn.Close()
	}
	return c.std.Close()
}

// SetLinger is net.TCPConn's. With 0 Close breaks the connection off, without
// close_notify: a peer that got one would take what it has for all of it (RFC
// 8446 section 6.1). It may be called from any goroutine.
func (c *Conn) SetLinger(sec int) error {
	c.abort.Store(sec == 0)
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// CloseWrite sends close_notify and leaves reading open.
func (c *Conn) CloseWrite() error { return c.std.CloseWrite() }

// tapMode is what a read of ciphertext may do.
type tapMode uint8

const (
	tapWaits  tapMode = iota // wait for the socket
	tapTries                 // ask the socket, but don't wait
	tapMemory                // leave the socket alone
)

// tap lies between crypto/tls and the socket. It reads ahead into a pooled
// buffer, which it owns only while bytes are in it, and hands out one record
// at a time: so crypto/tls, whose buffers can't be looked into, never holds
// more than the record that it is at.
type tap struct {
	net.Conn
	io   netio.Conn
	pair *keyPair // the certificate that the handshake chose

	// Owned by the reader.
	in   buf.Buffer
	rest int // bytes of the current record that were not handed out yet
	mode tapMode
	cut  bool // crypto/tls wanted more than there was: the socket has ended

	sent atomic.Uint64 // bytes that went to the socket
	// tries: writes don't wait. Set by the writer.
	tries atomic.Bool
	// mu is held during a write, of which crypto/tls makes one at a time.
	mu sync.Mutex
	// unsent are records that the socket didn't take without waiting. Guarded by
	// mu.
	unsent []byte
	// held takes records instead of the socket; nil doesn't. Guarded by mu.
	held *[]byte
}

// hold has records appended to b, which may be nil, instead of sent.
func (t *tap) hold(b *[]byte) {
	t.mu.Lock()
	t.held = b
	t.mu.Unlock()
}

// letGo sends the records that were held: before any that others may write, which come
// behind them.
func (t *tap) letGo() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	records := *t.held
	t.held = nil
	_, err := t.send(records)
	return err
}

// Read hands out bytes of the current record.
func (t *tap) Read(p []byte) (int, error) {
	if t.in.Len() == 0 {
		if err := t.fill(); err != nil {
			return 0, t.noteCut(err)
		}
	}
	b := t.in.Bytes()
	switch {
	case t.rest > 0:
		b = b[:min(len(b), t.rest)]
		n := copy(p, b)
		t.take(n)
		t.rest -= n
		return n, nil
	case len(b) >= recordHeader:
		t.rest = recordHeader + int(b[3])<<8 + int(b[4])
		return t.Read(p)
	}
	// Less than a header: it is the last of what is here. The header's length
	// can't be known, so it has to be made whole first.
	if err := t.fill(); err != nil {
		return 0, t.noteCut(err)
	}
	return t.Read(p)
}

// noteCut remembers the socket's end, which crypto/tls asks for only where no
// close_notify came before.
func (t *tap) noteCut(err error) error {
	if err == io.EOF {
		t.cut = true
	}
	return err
}

const recordHeader = 5

func (t *tap) take(n int) {
	t.in.Advance(n)
	t.in.ReleaseIfEmpty()
}

// fill reads more, as far as the mode lets it.
func (t *tap) fill() error {
	if t.rest > 0 {
		t.in.UseLarge() // a big record is under way, and more of them behind it
	}
	t.room()
	switch t.mode {
	case tapMemory:
		t.in.ReleaseIfEmpty()
		return errWouldBlock
	case tapTries:
		got, err := t.io.TryFill(&t.in)
		if err == nil && !got {
			t.in.ReleaseIfEmpty()
			err = errWouldBlock
		}
		return err
	}
	return t.io.Fill(&t.in)
}

// room makes room for more; false: in may grow no further.
func (t *tap) room() bool { return t.in.Len() == 0 || len(t.in.Free()) > 0 || t.in.Grow() }

// Write writes one or more records. Where it may not wait, it keeps what the
// socket doesn't take: crypto/tls can't go on after a short write.
func (t *tap) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held != nil {
		*t.held = append(*t.held, p...)
		return len(p), nil
	}
	if !t.tries.Load() {
		if err := t.finishLocked(); err != nil {
			return 0, err
		}
		return t.send(p)
	}
	n := 0
	if len(t.unsent) == 0 {
		var err error
		n, _, err = t.io.TryWrite(p)
		t.sent.Add(uint64(n))
		if err != nil {
			return n, err
		}
	}
	t.unsent = append(t.unsent, p[n:]...)
	return len(p), nil
}

// finish writes what the socket didn't take, and waits for it.
func (t *tap) finish() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finishLocked()
}

func (t *tap) finishLocked() error {
	if len(t.unsent) == 0 {
		return nil
	}
	_, err := t.send(t.unsent)
	t.unsent = nil
	return err
}

// send writes to the socket, and waits for it.
func (t *tap) send(p []byte) (int, error) {
	n, err := t.io.Write(p)
	t.sent.Add(uint64(n))
	return n, err
}

// full reports whether something waits for the socket.
func (t *tap) full() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.unsent) > 0
}

// wouldBlock says that nothing can be read without waiting. crypto/tls lets a
// read be tried again after an error that calls itself temporary.
type wouldBlock struct{}

var errWouldBlock net.Error = wouldBlock{}

func (wouldBlock) Error() string   { return "tls: nothing to read yet" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }
func (wouldBlock) Unwrap() error   { return io.ErrNoProgress }
