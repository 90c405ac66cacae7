// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// H2 is one side of an HTTP/2 connection, at the level of frames: it can send
// anything, and it keeps what it gets without judging it. Its methods may be
// called from several goroutines.
type H2 struct {
	conn     net.Conn      // immutable
	options  H2Options     // immutable
	patience time.Duration // immutable; for each wait
	ended    chan struct{} // closed when nothing is read any more
	handlers sync.WaitGroup
	closing  sync.Once     // guards the closing of closed
	closed   chan struct{} // closed by Close

	write   sync.Mutex     // held for the frames of one header block
	framer  *http2.Framer  // guarded by write for writing; read by the reading goroutine only
	encoder *hpack.Encoder // guarded by write
	block   bytes.Buffer   // guarded by write

	mu      sync.Mutex
	changed chan struct{}              // guarded by mu; closed and replaced when anything below changes
	streams map[uint32]*H2Stream       // guarded by mu
	nextID  uint32                     // guarded by mu
	window  int64                      // guarded by mu; what may be sent on the connection
	peer    map[http2.SettingID]uint32 // guarded by mu; the peer's settings
	goAway  *GoAway                    // guarded by mu; the last one
	counts  map[http2.FrameType]int    // guarded by mu; frames received
	acks    int                        // guarded by mu; SETTINGS that the peer has acknowledged
	pongs   int                        // guarded by mu
	err     error                      // guarded by mu; why nothing is read any more
}

// H2Options changes how one side behaves. The zero value is a proper peer.
type H2Options struct {
	// Settings are sent at the start.
	Settings []http2.Setting
	// NoCredit never gives the peer more window than it has at first.
	NoCredit bool
	// NoAcks answers neither SETTINGS nor PING.
	NoAcks bool
	// NoPreface sends nothing by itself at the start.
	NoPreface bool
	// Stuck reads no more after the peer's SETTINGS, as a peer that wants to
	// fill the other's memory.
	Stuck bool
}

// GoAway is a GOAWAY frame.
type GoAway struct {
	Last  uint32
	Code  http2.ErrCode
	Debug string
}

// H2Stream is what was received on one stream. Its fields may be read after a
// wait for what they hold; Snapshot makes a copy at any time.
type H2Stream struct {
	ID       uint32
	Interim  []Fields // heads of 1xx responses
	Fields   Fields   // the head, pseudo-header fields included
	Body     []byte
	Trailers Fields
	Headed   bool           // the head is complete
	Ended    bool           // by END_STREAM
	Reset    *http2.ErrCode // by RST_STREAM

	window  int64 // what may be sent
	handled bool  // by a server's handler
	// withheld: no credit is given back for what comes.
	withheld bool
}

// Get returns a field of the head.
func (s *H2Stream) Get(name string) string { return s.Fields.Get(name) }

// DialH2 connects with prior knowledge of HTTP/2. Each wait has to end within
// patience.
func DialH2(addr string, patience time.Duration, options H2Options) (*H2, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	c := newH2(conn, conn, patience, options)
	if !options.NoPreface {
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			conn.Close()
			return nil, err
		}
		if err := c.framer.WriteSettings(options.Settings...); err != nil {
			conn.Close()
			return nil, err
		}
	}
	go c.read(nil)
	return c, nil
}

func newH2(conn net.Conn, r io.Reader, patience time.Duration, options H2Options) *H2 {
	c := &H2{
		conn: conn, options: options, patience: patience, ended: make(chan struct{}), closed: make(chan struct{}),
		changed: make(chan struct{}), streams: map[uint32]*H2Stream{}, nextID: 1, window: 65535,
		peer: map[http2.SettingID]uint32{}, counts: map[http2.FrameType]int{},
	}
	c.framer = http2.NewFramer(conn, r)
	c.framer.AllowIllegalReads, c.framer.AllowIllegalWrites = true, true
	c.framer.SetMaxReadFrameSize(1<<24 - 1)
	c.encoder = hpack.NewEncoder(&c.block)
	return c
}

// Close closes the connection and waits for the reading goroutine.
func (c *H2) Close() {
	c.conn.Close()
	c.closing.Do(func() { close(c.closed) })
	<-c.ended
}

// Abort closes the connection by a TCP reset.
func (c *H2) Abort() {
	if tcp, ok := c.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a closed connection
	}
	c.Close()
}

// update changes what is guarded by mu and wakes those who wait.
func (c *H2) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// ErrPatience is what a wait ends with that took too long.
var ErrPatience = errors.New("nothing more came within the patience of the test")

// Wait waits until done, which is called with all of the connection's state
// held still, returns true. It returns an error when the connection has ended
// before.
func (c *H2) Wait(done func() bool) error {
	timer := time.NewTimer(c.patience)
	defer timer.Stop()
	for {
		c.mu.Lock()
		ok, err, changed := done(), c.err, c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-timer.C:
			return ErrPatience
		}
	}
}

// WaitClosed waits until the peer has closed the connection. Both an orderly
// close and a reset are one.
func (c *H2) WaitClosed() error {
	select {
	case <-c.ended:
		return nil
	case <-time.After(c.patience):
		return errors.New("the connection stayed open")
	}
}

// Closed tells whether the peer has closed the connection.
func (c *H2) Closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

// Withhold gives a stream no more window: the peer can send it no more than
// what it may already. The connection's window isn't used up by it.
func (c *H2) Withhold(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream(id).withheld = true
}

// Stuck tells whether the connection is one that isn't read.
func (c *H2) Stuck() bool { return c.options.Stuck }

// GoneAway returns the last GOAWAY, or nil.
func (c *H2) GoneAway() *GoAway {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goAway
}

// Count returns how many frames of a type came.
func (c *H2) Count(typ http2.FrameType) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[typ]
}

// Setting returns one of the peer's settings, and whether it has been sent.
func (c *H2) Setting(id http2.SettingID) (uint32, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.peer[id]
	return v, ok
}

// Ready waits for the peer's SETTINGS.
func (c *H2) Ready() error {
	return c.Wait(func() bool { return c.counts[http2.FrameSettings] > 0 })
}

// Ping sends a PING and waits for its answer, by which the peer shows that it
// has taken in all that was sent before.
func (c *H2) Ping() error {
	c.mu.Lock()
	want := c.pongs + 1
	c.mu.Unlock()
	if err := c.Frames(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{1, 2, 3, 4}) }); err != nil {
		return err
	}
	return c.Wait(func() bool { return c.pongs >= want })
}

// Snapshot returns a copy of what a stream has received so far.
func (c *H2) Snapshot(id uint32) H2Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		return *s
	}
	return H2Stream{ID: id}
}

// Received returns how many octets of a body have come. It is for the
// functions that Wait calls.
func (c *H2) Received(id uint32) int { return len(c.stream(id).Body) }

// stream returns the state of a stream; c.mu is held.
func (c *H2) stream(id uint32) *H2Stream {
	s := c.streams[id]
	if s == nil {
		s = &H2Stream{ID: id, window: c.initialWindow()}
		c.streams[id] = s
	}
	return s
}

func (c *H2) initialWindow() int64 {
	if v, ok := c.peer[http2.SettingInitialWindowSize]; ok {
		return int64(v)
	}
	return 65535
}

// NewStream gives out the next number for a stream of a client's.
func (c *H2) NewStream() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.nextID
	c.nextID += 2
	c.stream(id)
	return id
}

// Await waits until a stream has ended, in either way, or the connection.
func (c *H2) Await(id uint32) (H2Stream, error) {
	err := c.Wait(func() bool { s := c.stream(id); return s.Ended || s.Reset != nil })
	return c.Snapshot(id), err
}

// AwaitHead waits until a stream's head is there.
func (c *H2) AwaitHead(id uint32) (H2Stream, error) {
	err := c.Wait(func() bool { s := c.stream(id); return s.Headed || s.Ended || s.Reset != nil })
	return c.Snapshot(id), err
}

// String tells how the connection stands, for the messages of tests.
func (c *H2) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := "open"
	if c.err != nil {
		s = c.err.Error()
	}
	if g := c.goAway; g != nil {
		s += fmt.Sprintf(", GOAWAY %v, last stream %d, %q", g.Code, g.Last, g.Debug)
	}
	return s
}
