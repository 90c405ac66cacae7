// SPDX-License-Identifier: Apache-2.0

package h2

import "time"

// Config is what one side of connections is set to. A zero field stands for
// its default, so that the zero value is ready to use. Immutable once in use.
type Config struct {
	// MaxStreams bounds the streams that the peer may have open at once on a
	// connection. Default 1024, as Envoy's.
	MaxStreams uint32
	// StreamWindow is the credit of each stream in octets, which bounds what
	// is held for a stream whose other side is slow. Default 65535.
	StreamWindow uint32
	// ConnWindow is the credit of the connection. It is given back at once.
	// Default 1 MiB.
	ConnWindow uint32
	// MaxHeadBytes and MaxFields bound a head, as in h1.Limits. Defaults
	// 60 KiB and 100.
	MaxHeadBytes, MaxFields int
	// Connect allows extended CONNECT (RFC 8441), which is announced to clients.
	Connect bool
	// KeepaliveInterval is the time without a frame after which a PING is
	// sent, KeepaliveTimeout that in which it has to be answered. 0: none.
	KeepaliveInterval, KeepaliveTimeout time.Duration
}

func or[T int | uint32](v, fallback T) T {
	if v == 0 {
		return fallback
	}
	return v
}

func (c *Config) maxStreams() uint32   { return or(c.MaxStreams, 1024) }
func (c *Config) streamWindow() uint32 { return or(c.StreamWindow, defaultWindow) }
func (c *Config) connWindow() uint32   { return max(or(c.ConnWindow, 1<<20), defaultWindow) }
func (c *Config) headBytes() int       { return or(c.MaxHeadBytes, 60<<10) }
func (c *Config) fields() int          { return or(c.MaxFields, 100) }
