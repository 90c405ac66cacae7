// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"net"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// headBlock is a header block that is being received.
type headBlock struct {
	stream uint32
	end    bool // the HEADERS frame had END_STREAM
	bytes  []byte
}

// read takes frames in until the connection ends. handler, if there is one,
// is called on a goroutine of its own for each stream that the peer opens.
func (c *H2) read(handler func(id uint32)) {
	defer close(c.ended)
	defer c.handlers.Wait()
	decoder := hpack.NewDecoder(4096, nil)
	var block headBlock
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			c.update(func() { c.err = unexpected(err) })
			return
		}
		whole := false
		switch f := frame.(type) {
		case *http2.HeadersFrame:
			block = headBlock{f.StreamID, f.StreamEnded(), append(block.bytes[:0], f.HeaderBlockFragment()...)}
			whole = f.HeadersEnded()
		case *http2.ContinuationFrame:
			block.bytes = append(block.bytes, f.HeaderBlockFragment()...)
			whole = f.HeadersEnded()
		}
		c.update(func() {
			c.counts[frame.Header().Type]++
			c.take(frame)
			if whole {
				c.takeBlock(decoder, block)
			}
		})
		if whole && handler != nil {
			c.start(handler, block.stream)
		}
		c.answer(frame)
		if _, settings := frame.(*http2.SettingsFrame); settings && c.options.Stuck {
			c.stick()
			return
		}
	}
}

// stick reads nothing any more. That the peer has closed shows by a failing
// write then.
func (c *H2) stick() {
	<-c.closed
	c.update(func() { c.err = net.ErrClosed })
}

// start has the handler called for a stream that is new.
func (c *H2) start(handler func(id uint32), id uint32) {
	c.mu.Lock()
	s := c.stream(id)
	first := !s.handled
	s.handled = true
	c.mu.Unlock()
	if first {
		c.handlers.Go(func() { handler(id) })
	}
}

// take keeps what a frame says; c.mu is held.
func (c *H2) take(frame http2.Frame) {
	switch f := frame.(type) {
	case *http2.DataFrame:
		s := c.stream(f.StreamID)
		s.Body = append(s.Body, f.Data()...)
		s.Ended = s.Ended || f.StreamEnded()
	case *http2.RSTStreamFrame:
		code := f.ErrCode
		c.stream(f.StreamID).Reset = &code
	case *http2.GoAwayFrame:
		c.goAway = &GoAway{f.LastStreamID, f.ErrCode, string(f.DebugData())}
	case *http2.PingFrame:
		if f.IsAck() {
			c.pongs++
		}
	case *http2.SettingsFrame:
		c.takeSettings(f)
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.window += int64(f.Increment)
		} else {
			c.stream(f.StreamID).window += int64(f.Increment)
		}
	}
}

func (c *H2) takeSettings(f *http2.SettingsFrame) {
	if f.IsAck() {
		c.acks++
		return
	}
	before := c.initialWindow()
	_ = f.ForeachSetting(func(s http2.Setting) error { // fails only where the function does
		c.peer[s.ID] = s.Val
		return nil
	})
	for _, s := range c.streams {
		s.window += c.initialWindow() - before
	}
}

// takeBlock keeps a header block; c.mu is held.
func (c *H2) takeBlock(decoder *hpack.Decoder, b headBlock) {
	s := c.stream(b.stream)
	var fields Fields
	decoder.SetEmitFunc(func(f hpack.HeaderField) { fields = append(fields, Field{f.Name, f.Value}) })
	_, err := decoder.Write(b.bytes)
	if err == nil {
		err = decoder.Close()
	}
	if err != nil && c.err == nil {
		c.err = err
	}
	switch status := fields.Get(":status"); {
	case s.Headed:
		s.Trailers = fields
	case strings.HasPrefix(status, "1") && status != "101" && !b.end:
		s.Interim = append(s.Interim, fields)
	default:
		s.Fields, s.Headed = fields, true
	}
	s.Ended = s.Ended || b.end
}

// answer does what a proper peer does about a frame. A failed write shows
// where the connection is read.
func (c *H2) answer(frame http2.Frame) {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() && !c.options.NoAcks {
			size, ok := f.Value(http2.SettingHeaderTableSize)
			_ = c.Frames(func(fr *http2.Framer) error {
				if ok {
					c.encoder.SetMaxDynamicTableSizeLimit(size)
				}
				return fr.WriteSettingsAck()
			})
		}
	case *http2.PingFrame:
		if !f.IsAck() && !c.options.NoAcks {
			_ = c.Frames(func(fr *http2.Framer) error { return fr.WritePing(true, f.Data) })
		}
	case *http2.DataFrame:
		if n := f.Length; n > 0 && !c.options.NoCredit {
			c.mu.Lock()
			withheld := c.stream(f.StreamID).withheld
			c.mu.Unlock()
			_ = c.Frames(func(fr *http2.Framer) error {
				if err := fr.WriteWindowUpdate(0, n); err != nil || withheld {
					return err
				}
				return fr.WriteWindowUpdate(f.StreamID, n)
			})
		}
	}
}
