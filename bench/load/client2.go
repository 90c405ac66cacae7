// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/net/http2/hpack"

	"pillion/bench/frame"
)

const (
	// clientStreamWindow and clientConnWindow are what a client lets the peer
	// send; creditStep is how much it takes in before it gives that back.
	clientStreamWindow = 1 << 20
	clientConnWindow   = 16 << 20
	creditStep         = 256 << 10
)

// client2 is one HTTP/2 connection of a client, without its socket: it is fed
// what came, and leaves in out what to send.
type client2 struct {
	spec *HTTP2Spec
	// done is called for each finished call: an answered request, or an
	// answered message of a stream. The stream of a message stays open.
	done func(c *call2, result outcome)

	out, in []byte
	// greeted: the peer's SETTINGS came; maxStreams is its limit.
	greeted    bool
	maxStreams uint32
	goingAway  bool

	next uint32 // number of the next stream
	// window is what may be sent on the connection, initial on a new stream.
	window, initial int64
	credit          int
	calls           map[uint32]*call2
	// waiting are calls whose message waits for a window.
	waiting []*call2
	free    []*call2

	// first and later are the header block of the first request and of all that
	// follow, which find all their fields in the peer's table.
	first, later, message []byte
	dec                   *hpack.Decoder
	// head is the call whose header block is being read; block has what came of
	// it, ends whether the stream ends with it.
	head  *call2
	block []byte
	ends  bool
}

// outcome is how a call ended.
type outcome int

const (
	answered outcome = iota
	refused          // a status other than success, or a body of the wrong length
	reset            // RST_STREAM
)

// call2 is one request, or the stream that carries message after message.
type call2 struct {
	id     uint32
	due    time.Time
	window int64
	// status and grpc are those of the response; grpc is -1 until it came.
	status, grpc int
	// got counts the body's bytes, of a stream those of the current message;
	// credit what wasn't given back yet.
	got, credit int
	// quiet: a stream between two messages, which is no call under way.
	quiet bool
	// stalled: the client gives no credit for what it gets on it. unsent is
	// what it has still to send.
	stalled bool
	unsent  int
}

// newClient2 returns a client that has its preface to send. It sends requests
// only once it is greeted, so that the peer's settings are known.
func newClient2(spec *HTTP2Spec, done func(*call2, outcome)) *client2 {
	c := &client2{
		spec: spec, done: done, next: 1, maxStreams: frame.MaxWindow,
		window: frame.DefaultWindow, initial: frame.DefaultWindow, calls: map[uint32]*call2{},
	}
	c.out = append(c.out, frame.Preface...)
	c.out = frame.AppendSettings(c.out, frame.SettingInitialWindowSize, clientStreamWindow)
	c.out = frame.AppendWindowUpdate(c.out, 0, clientConnWindow-frame.DefaultWindow)
	if spec.Mode != Fetch {
		c.message = GRPCMessage(spec.Request.Body)
	}
	c.dec = hpack.NewDecoder(frame.DefaultTable, c.field)
	return c
}

// encode prepares the header blocks for a peer with a table of so many bytes.
func (c *client2) encode(table uint32) {
	r := c.spec.Request
	fields := [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", r.Path}, {":authority", r.Host}}
	if c.spec.Mode != Fetch {
		fields[0][1] = "POST"
		fields = append(fields, [2]string{"content-type", "application/grpc"}, [2]string{"te", "trailers"})
	}
	fields = append(fields, r.Fields...)
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSizeLimit(table)
	blocks := [2]*[]byte{&c.first, &c.later}
	for _, block := range blocks {
		b.Reset()
		for _, f := range fields {
			_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // to a bytes.Buffer
		}
		*block = bytes.Clone(b.Bytes())
	}
}

// start sends a request, or opens a stream and sends its first message.
func (c *client2) start(due time.Time) {
	s := c.open(due)
	if c.spec.Mode != Fetch {
		c.send(s)
	}
}

// open sends a request's header block.
func (c *client2) open(due time.Time) *call2 {
	var s *call2
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
	} else {
		s = &call2{}
	}
	*s = call2{id: c.next, due: due, window: c.initial, grpc: -1}
	c.calls[s.id] = s
	block := c.later
	if c.next == 1 {
		block = c.first
	}
	c.next += 2
	flags := byte(frame.EndHeaders)
	if c.spec.Mode == Fetch {
		flags |= frame.EndStream
	}
	c.out = append(frame.Append(c.out, len(block), frame.Headers, flags, s.id), block...)
	return s
}

// again sends a quiet stream's next message.
func (c *client2) again(s *call2, due time.Time) {
	s.due, s.got, s.quiet = due, 0, false
	c.send(s)
}

// send sends a call's message, or has it wait for a window.
func (c *client2) send(s *call2) {
	n := int64(len(c.message))
	if c.window < n || s.window < n {
		c.waiting = append(c.waiting, s)
		return
	}
	c.window -= n
	s.window -= n
	flags := byte(0)
	if c.spec.Mode == Unary {
		flags = frame.EndStream
	}
	c.out = append(frame.Append(c.out, len(c.message), frame.Data, flags, s.id), c.message...)
}

// finish ends a stream of messages.
func (c *client2) finish(s *call2) {
	s.quiet = false
	c.out = frame.Append(c.out, 0, frame.Data, frame.EndStream, s.id)
}

// feed takes what came from the peer.
func (c *client2) feed(b []byte) error {
	if len(c.in) > 0 {
		c.in = append(c.in, b...)
		b = c.in
	}
	for {
		f, rest, size := frame.Next(b)
		if size > frame.MaxSize {
			return fmt.Errorf("a frame of %d bytes", size)
		}
		if size < 0 {
			break
		}
		if err := c.frame(f); err != nil {
			return err
		}
		b = rest
	}
	c.in = append(c.in[:0], b...)
	return nil
}

func (c *client2) frame(f frame.Frame) error {
	switch f.Kind {
	case frame.Headers:
		p, ok := f.Content()
		if !ok {
			return errors.New("a HEADERS frame shorter than its padding")
		}
		c.head, c.ends, c.block = c.calls[f.Stream], f.Has(frame.EndStream), append(c.block[:0], p...)
		if f.Has(frame.EndHeaders) {
			return c.fields()
		}
	case frame.Continuation:
		c.block = append(c.block, f.Payload...)
		if f.Has(frame.EndHeaders) {
			return c.fields()
		}
	case frame.Data:
		return c.data(f)
	case frame.Settings:
		return c.settings(f)
	case frame.Ping:
		if !f.Has(frame.Ack) {
			c.out = append(frame.Append(c.out, len(f.Payload), frame.Ping, frame.Ack, 0), f.Payload...)
		}
	case frame.WindowUpdate:
		if s := c.calls[f.Stream]; s != nil {
			s.window += f.Increment()
		} else if f.Stream == 0 {
			c.window += f.Increment()
		}
		c.resume()
	case frame.RSTStream:
		if s := c.calls[f.Stream]; s != nil {
			c.end(s, reset)
		}
	case frame.GoAway:
		c.goingAway = true
	}
	return nil
}

// resume tries again to send what waited for a window.
func (c *client2) resume() {
	waited := c.waiting
	c.waiting = nil
	for _, s := range waited {
		if c.calls[s.id] != s {
			continue
		}
		if s.stalled {
			c.pour(s)
		} else {
			c.send(s)
		}
	}
}

func (c *client2) settings(f frame.Frame) error {
	if f.Has(frame.Ack) {
		return nil
	}
	table := uint32(frame.DefaultTable)
	ok := frame.EachSetting(f.Payload, func(setting uint16, v uint32) {
		switch setting {
		case frame.SettingHeaderTableSize:
			table = min(v, frame.DefaultTable)
		case frame.SettingMaxStreams:
			c.maxStreams = v
		case frame.SettingInitialWindowSize:
			for _, s := range c.calls {
				s.window += int64(v) - c.initial
			}
			c.initial = int64(v)
		}
	})
	if !ok {
		return errors.New("a SETTINGS frame of a wrong size")
	}
	c.out = frame.Append(c.out, 0, frame.Settings, frame.Ack, 0)
	if !c.greeted {
		c.greeted = true
		c.encode(table)
	}
	c.resume()
	return nil
}

// fields reads a whole header block.
func (c *client2) fields() error {
	if _, err := c.dec.Write(c.block); err != nil {
		return fmt.Errorf("header block: %w", err)
	}
	if err := c.dec.Close(); err != nil {
		return fmt.Errorf("header block: %w", err)
	}
	if s := c.head; s != nil && c.ends {
		c.complete(s)
	}
	c.head = nil
	return nil
}

// field takes one response field; of most it wants nothing.
func (c *client2) field(f hpack.HeaderField) {
	if c.head == nil {
		return
	}
	switch f.Name {
	case ":status":
		c.head.status, _ = strconv.Atoi(f.Value) // 0 is no success
	case "grpc-status":
		c.head.grpc, _ = strconv.Atoi(f.Value)
		if f.Value != strconv.Itoa(c.head.grpc) {
			c.head.grpc = -1
		}
	}
}

// data takes a piece of a response's body.
func (c *client2) data(f frame.Frame) error {
	if c.credit += len(f.Payload); c.credit >= creditStep {
		c.out = frame.AppendWindowUpdate(c.out, 0, c.credit)
		c.credit = 0
	}
	p, ok := f.Content()
	if !ok {
		return errors.New("a DATA frame shorter than its padding")
	}
	s := c.calls[f.Stream]
	if s == nil {
		return nil
	}
	ends := f.Has(frame.EndStream)
	if s.credit += len(f.Payload); s.credit >= creditStep && !ends && !s.stalled {
		c.out = frame.AppendWindowUpdate(c.out, s.id, s.credit)
		s.credit = 0
	}
	s.got += len(p)
	switch {
	case ends:
		c.complete(s)
	case c.spec.Mode == Messages && s.got == len(c.message) && !s.quiet:
		s.quiet = true
		c.done(s, answered)
	}
	return nil
}

// complete judges an answer that has ended.
func (c *client2) complete(s *call2) {
	good := s.status/100 == 2
	switch c.spec.Mode {
	case Fetch:
		good = good && (c.spec.Want == 0 || s.got == c.spec.Want)
	case Unary:
		good = good && s.grpc == 0 && s.got == len(c.message)
	case Messages:
		// It ends because we asked for that, between two messages.
		good = good && s.grpc == 0
	}
	if good {
		c.end(s, answered)
	} else {
		c.end(s, refused)
	}
}

// end forgets a stream and tells of it.
func (c *client2) end(s *call2, result outcome) {
	delete(c.calls, s.id)
	c.free = append(c.free, s)
	c.done(s, result)
}
