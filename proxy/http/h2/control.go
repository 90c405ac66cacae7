// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"encoding/binary"
	"time"

	"golang.org/x/net/http2"
)

// settings handles SETTINGS (RFC 9113 section 6.5).
func (c *Conn) settings(h *frameHeader, p []byte, now int64) *connError {
	switch {
	case h.id != 0:
		return errStreamZero
	case h.has(http2.FlagSettingsAck) && len(p) != 0, len(p)%6 != 0:
		return errFrameSize
	}
	if err := c.charge(now, &c.stats.InboundControlFlood); err != nil {
		return err
	}
	if h.has(http2.FlagSettingsAck) {
		return nil
	}
	c.mu.Lock()
	for ; len(p) > 0; p = p[6:] {
		if err := c.setting(http2.SettingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	c.settle()
	c.outbox()
	*c.out = appendSettingsAck(*c.out)
	err := c.countControl()
	c.mu.Unlock()
	c.capacityChanged() // there may be room for more now
	return err
}

// setting applies one setting. mu is held.
func (c *Conn) setting(id http2.SettingID, v uint32) *connError {
	switch id {
	case http2.SettingHeaderTableSize:
		c.enc.setPeerMax(v)
	case http2.SettingEnablePush:
		if v > 1 || c.client && v == 1 {
			return errSettingValue
		}
	case http2.SettingMaxConcurrentStreams:
		c.peerStreams = v
	case http2.SettingInitialWindowSize:
		return c.setPeerWindow(v)
	case http2.SettingMaxFrameSize:
		if v < minFrameSize || v > maxFrameSize {
			return errSettingValue
		}
		c.peerFrameSize = min(v, highWater)
	case http2.SettingEnableConnectProtocol:
		if v > 1 || c.peerConnect && v == 0 {
			return errSettingValue
		}
		c.peerConnect = v == 1
	}
	return nil
}

// setPeerWindow changes the window of all streams (RFC 9113 section 6.9.2).
// mu is held.
func (c *Conn) setPeerWindow(v uint32) *connError {
	if v > maxWindow {
		return errWindowSetting
	}
	more := int64(v) > c.peerWindow
	c.peerWindow = int64(v)
	if !more {
		return nil
	}
	for _, s := range c.streams {
		if s.sendAdj+c.peerWindow > maxWindow {
			return errWindowSetting
		}
		if s.queue != nil {
			c.wait(s)
		}
	}
	return nil
}

// countControl charges an answer that waits to be written. mu is held.
func (c *Conn) countControl() *connError {
	if c.control++; c.control > maxControl {
		c.stats.OutboundControlFlood.Inc()
		return errUnread
	}
	return nil
}

// ping handles PING (RFC 9113 section 6.7).
func (c *Conn) ping(h *frameHeader, p []byte, now int64) *connError {
	switch {
	case h.id != 0:
		return errStreamZero
	case len(p) != 8:
		return errFrameSize
	}
	if err := c.charge(now, &c.stats.InboundControlFlood); err != nil {
		return err
	}
	if h.has(http2.FlagPingAck) {
		c.pinged.Store(0)
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outbox()
	*c.out = appendPing(*c.out, true, p)
	return c.countControl()
}

// Keepalive sends a PING if the connection was quiet for the configured time,
// and breaks it off if one wasn't answered in time. It is to be called now and
// then; now is of http.Now.
func (c *Conn) Keepalive(now int64) {
	every := c.cfg.KeepaliveInterval
	if every <= 0 {
		return
	}
	if sent := c.pinged.Load(); sent != 0 {
		limit := c.cfg.KeepaliveTimeout
		if limit <= 0 {
			limit = 20 * time.Second
		}
		if now-sent > int64(limit) && c.lastRead.Load() < sent {
			c.stats.KeepaliveTimeout.Inc()
			c.Abort()
		}
		return
	}
	if now-c.lastRead.Load() < int64(every) {
		return
	}
	c.pinged.Store(now)
	c.mu.Lock()
	c.outbox()
	*c.out = appendPing(*c.out, false, []byte("pillion."))
	c.mu.Unlock()
	c.Flush()
}

// goAway handles GOAWAY (RFC 9113 section 6.8): streams above the last one
// that the peer names were not processed.
func (c *Conn) goAway(h *frameHeader, p []byte, now int64) *connError {
	switch {
	case h.id != 0:
		return errStreamZero
	case len(p) < 8:
		return errFrameSize
	}
	if err := c.charge(now, &c.stats.InboundControlFlood); err != nil {
		return err
	}
	if !c.client {
		return nil // it opens no streams that we would have to give up
	}
	last := binary.BigEndian.Uint32(p) & maxStreamID
	var refused []taken
	c.mu.Lock()
	c.draining = true
	for id, s := range c.streams {
		if id > last {
			refused = append(refused, taken{recv: s.recv, id: id})
			c.remove(s)
		}
	}
	c.goneAway = true
	c.endIfIdleLocked()
	c.mu.Unlock()
	for _, r := range refused {
		r.recv.OnReset(Event{c, r.id, &c.batch}, errUpRefused)
	}
	c.capacityChanged() // those that wait for room here need another connection
	return nil
}

// Linger bounds: how long, and over how many octets, a connection that we
// ended is read on, so that the peer sees the GOAWAY before a reset.
const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

func (c *Conn) linger() {
	c.mu.Lock()
	skip := !c.closeWhenFlushed || c.broken
	c.mu.Unlock()
	if skip || c.client {
		return
	}
	// The GOAWAY itself may be stuck, so that hangUp has set no bound yet.
	_ = c.io.SetReadDeadline(time.Now().Add(lingerTime))
	for total := 0; total < lingerBytes; {
		c.in.Release()
		if c.io.Fill(&c.in) != nil {
			return
		}
		total += c.in.Len()
	}
}
