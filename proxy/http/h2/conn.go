// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"pillion/proxy/buf"
	"pillion/proxy/http"
	"pillion/proxy/netio"
)

// Acceptor makes the receivers of a server's streams.
type Acceptor interface {
	// Accept returns the stream of a new request with its receiver. It is called
	// from the reader's goroutine.
	Accept(c *Conn) (*Stream, Receiver)
}

// Observer is told of changes in what a client's connection can carry. Calls
// hold no lock of the connection.
type Observer interface {
	// CapacityChanged tells that Capacity may return something else now.
	CapacityChanged(c *Conn)
}

// Conn is one HTTP/2 connection.
type Conn struct {
	io       netio.Conn
	cfg      *Config  // immutable
	stats    *Stats   // immutable
	accept   Acceptor // immutable; nil on a client's side
	observer Observer // immutable; nil when nobody asks
	client   bool     // immutable

	local string // our address as text, immutable

	// Owned by the reader.
	in      buf.Buffer
	dec     *decoder
	batch   Batch
	block   headerBlock // that is being continued
	greeted bool        // the peer's preface and SETTINGS came
	recvWin int64       // what the peer may still send on the connection
	credit  uint32      // what it is to get back
	budget  budget

	mu  sync.Mutex
	enc encoder // guarded by mu, as all below
	// streams are those that are open. lastPeer is the highest identifier that
	// the peer used, nextID the next one of ours.
	streams  map[uint32]*Stream
	lastPeer uint32
	nextID   uint32
	resets   recent // streams that we have reset and the peer may not know of

	out     *[]byte // frames that wait to be written; nil when there are none
	control int     // how many of them answer the peer's frames
	writing bool    // a goroutine writes
	// promised says that a goroutine is about to write.
	promised bool
	broken   bool // a write has failed
	waiters  []*Stream
	queues   int // streams that have a queue
	taken    []taken

	sendWin       int64 // of the connection
	peerWindow    int64 // SETTINGS_INITIAL_WINDOW_SIZE of the peer
	peerFrameSize uint32
	peerStreams   uint32        // SETTINGS_MAX_CONCURRENT_STREAMS of the peer
	peerConnect   bool          // SETTINGS_ENABLE_CONNECT_PROTOCOL of the peer
	settled       bool          // the peer's SETTINGS came
	settling      chan struct{} // closed when they come, or the connection ends; nil when nobody waits

	goneAway         bool // we have sent the last GOAWAY
	draining         bool // we have sent a GOAWAY, or got one
	closed           bool // the connection is over
	closeWhenFlushed bool
	hungUp           bool   // hangUp was called
	reads            uint32 // how often bytes were read
	answered         bool   // a response came on the connection

	// lastRead and lastStream are times of http.Now: of the latest bytes, and of
	// the end of the latest stream, or of the start.
	lastRead, lastStream atomic.Int64
	active               atomic.Int32  // open streams
	sentData             atomic.Uint32 // DATA frames, modulo 2^32
	leaves               atomic.Bool   // Run is to return
	pinged               atomic.Int64  // when an unanswered PING was sent, of http.Now; 0 none
}

// NewServer takes ownership of nc, the connection of a client, and of in, the
// bytes that were read from it. Run serves it.
func NewServer(nc net.Conn, in buf.Buffer, cfg *Config, st *Stats, accept Acceptor) *Conn {
	c := newConn(nc, cfg, st)
	c.accept, c.in = accept, in
	settings := []http2.Setting{
		{ID: http2.SettingMaxConcurrentStreams, Val: cfg.maxStreams()},
		{ID: http2.SettingInitialWindowSize, Val: cfg.streamWindow()},
		{ID: http2.SettingMaxHeaderListSize, Val: uint32(cfg.headBytes())},
	}
	if cfg.Connect {
		settings = append(settings, http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	}
	c.greet(settings)
	return c
}

// NewClient takes ownership of nc, a connection to a server. Run must be
// running for it to be of use.
func NewClient(nc net.Conn, cfg *Config, st *Stats, o Observer) *Conn {
	c := newConn(nc, cfg, st)
	c.client, c.observer, c.nextID = true, o, 1
	c.outbox()
	*c.out = append(*c.out, preface...)
	c.greet([]http2.Setting{
		{ID: http2.SettingEnablePush, Val: 0},
		{ID: http2.SettingInitialWindowSize, Val: cfg.streamWindow()},
		{ID: http2.SettingMaxHeaderListSize, Val: uint32(cfg.headBytes())},
	})
	return c
}

func newConn(nc net.Conn, cfg *Config, st *Stats) *Conn {
	c := &Conn{cfg: cfg, stats: st, local: nc.LocalAddr().String()}
	c.io.Init(nc)
	c.dec = newDecoder(cfg.headBytes(), cfg.fields())
	c.enc.init()
	c.streams = map[uint32]*Stream{}
	c.sendWin, c.peerWindow, c.peerFrameSize, c.peerStreams = defaultWindow, defaultWindow, minFrameSize, unknownStreams
	c.recvWin = int64(cfg.connWindow())
	now := http.Now()
	c.lastRead.Store(now)
	c.lastStream.Store(now)
	return c
}

// unknownStreams is how many streams a server is trusted with before its
// SETTINGS came (RFC 9113 section 6.5.2 recommends no fewer than 100).
const unknownStreams = 100

// greet queues our SETTINGS, and the credit of the connection beyond that
// which everybody starts with.
func (c *Conn) greet(settings []http2.Setting) {
	c.outbox()
	*c.out = appendSettings(*c.out, settings...)
	if more := c.cfg.connWindow() - defaultWindow; more > 0 {
		*c.out = appendWindowUpdate(*c.out, 0, more)
	}
}

// LocalAddr returns our address as text.
func (c *Conn) LocalAddr() string { return c.local }

// Active returns the number of open streams.
func (c *Conn) Active() int { return int(c.active.Load()) }

// IdleSince returns since when no stream is open, of http.Now; 0 while one is.
func (c *Conn) IdleSince() int64 {
	if c.active.Load() > 0 {
		return 0
	}
	return c.lastStream.Load()
}

// Flush writes what was appended outside of a Receiver's call.
func (c *Conn) Flush() {
	var b Batch
	c.flush(&b)
	b.Flush()
}

// FlushSoon is Flush for one of many goroutines that send at the same time: the
// first lets the others that can run have their turn, and writes for all.
func (c *Conn) FlushSoon() {
	if !c.promise() {
		return
	}
	runtime.Gosched()
	c.Flush()
}

// promise makes it the caller's duty to flush what is there and what still
// comes. false: somebody else has it.
func (c *Conn) promise() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.promised {
		return false
	}
	c.promised = true
	return true
}

// Open begins a request on a client's connection; with end it has no body.
// The events of its response go to r. It returns the stream's identifier, or why
// there can be no more streams: the request then wasn't sent.
func (c *Conn) Open(s *Stream, r Receiver, h *http.RequestHead, end bool) (uint32, *http.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.roomLocked() {
		return 0, errUpRefused
	}
	id := c.nextID
	c.nextID += 2
	s.reset(c, id, r)
	s.started, s.toHead = c.reads, h.Method == http.MethodHead
	c.add(s)
	from := c.beginHeaders()
	*c.out = c.enc.request(*c.out, h)
	c.endHeaders(from, id, end)
	if end {
		s.endLocal()
	}
	return id, nil
}

// Capacity returns how many streams may be open at once, 0 when no more can be
// opened at all.
func (c *Conn) Capacity() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.usableLocked() {
		return 0
	}
	return int(min(c.peerStreams, maxWindow))
}

func (c *Conn) roomLocked() bool { return c.usableLocked() && len(c.streams) < int(c.peerStreams) }

func (c *Conn) usableLocked() bool {
	return !c.closed && !c.broken && !c.draining && c.nextID <= maxStreamID
}

// Usable reports whether streams can be opened, now or when others are over.
func (c *Conn) Usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.usableLocked()
}

// AllowsConnect reports whether the server takes extended CONNECT (RFC 8441).
// Until its SETTINGS came nobody can know: settling, unless it is nil, is
// closed when it is worth asking again.
func (c *Conn) AllowsConnect() (allowed bool, settling <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.settled || c.closed {
		return c.peerConnect, nil
	}
	if c.settling == nil {
		c.settling = make(chan struct{})
	}
	return false, c.settling
}

// settle wakes those that wait for the peer's SETTINGS. mu is held.
func (c *Conn) settle() {
	c.settled = true
	if c.settling != nil {
		close(c.settling)
		c.settling = nil
	}
}

// capacityChanged tells the observer, if there is one. mu is not held.
func (c *Conn) capacityChanged() {
	if c.observer != nil {
		c.observer.CapacityChanged(c)
	}
}

// add makes s one of the open streams. mu is held.
func (c *Conn) add(s *Stream) {
	c.streams[s.id] = s
	c.active.Add(1)
	c.stats.StreamsActive.Inc()
}

// remove ends s. mu is held.
func (c *Conn) remove(s *Stream) {
	if !s.open {
		return
	}
	s.open = false
	s.drop()
	if s.waiting {
		i := slices.Index(c.waiters, s)
		c.waiters = slices.Delete(c.waiters, i, i+1)
		s.waiting = false
	}
	delete(c.streams, s.id)
	c.lastStream.Store(http.Now())
	c.active.Add(-1)
	c.stats.StreamsActive.Dec()
	c.endIfIdleLocked()
}

// resetLocked sends RST_STREAM and ends s. mu is held.
func (c *Conn) resetLocked(s *Stream, code http2.ErrCode) {
	c.outbox()
	*c.out = appendReset(*c.out, s.id, code)
	c.stats.TxReset.Inc()
	c.resets.add(s.id)
	c.remove(s)
}

// recentResets is how many streams that were reset are remembered.
const recentResets = 64

// recent remembers the last few streams that were reset. Most connections have none, and
// no memory for them.
type recent struct {
	ids *[recentResets]uint32
	n   int
}

func (r *recent) add(id uint32) {
	if r.ids == nil {
		r.ids = new([recentResets]uint32)
	}
	r.ids[r.n%recentResets] = id
	r.n++
}

func (r *recent) has(id uint32) bool { return r.ids != nil && slices.Contains(r.ids[:], id) }

// Drain begins an orderly end: the peer is told to open no more streams. On a
// server's side the first GOAWAY lets those through that are on their way;
// FinishDrain sends the last (RFC 9113 section 6.8).
func (c *Conn) Drain() {
	c.mu.Lock()
	if !c.draining && !c.closed {
		c.draining = true
		c.outbox()
		if c.client {
			*c.out = appendGoAway(*c.out, 0, http2.ErrCodeNo, "")
			c.goneAway = true
		} else {
			*c.out = appendGoAway(*c.out, maxStreamID, http2.ErrCodeNo, "")
		}
		c.stats.GoAwaySent.Inc()
	}
	c.endIfIdleLocked()
	c.mu.Unlock()
	c.Flush()
}

// FinishDrain refuses streams from now on. The connection ends with the last
// one that is open.
func (c *Conn) FinishDrain() {
	c.mu.Lock()
	if !c.goneAway && !c.closed {
		c.draining, c.goneAway = true, true
		c.outbox()
		*c.out = appendGoAway(*c.out, c.lastPeer, http2.ErrCodeNo, "")
	}
	c.endIfIdleLocked()
	c.mu.Unlock()
	c.Flush()
}

func (c *Conn) endIfIdleLocked() {
	if c.goneAway && len(c.streams) == 0 {
		c.closeWhenFlushed = true
	}
}

// Abort breaks the connection off at once, from any goroutine.
func (c *Conn) Abort() {
	c.mu.Lock()
	c.breakLocked()
	c.mu.Unlock()
}

// hangUp ends the connection once all is written. A client is left the time to
// read it (RFC 9112 section 9.6 has the reason); the reader finds the end.
func (c *Conn) hangUp() {
	if c.client || c.io.CloseWrite() != nil {
		_ = c.io.Close()
		return
	}
	_ = c.io.SetReadDeadline(time.Now().Add(lingerTime))
}
