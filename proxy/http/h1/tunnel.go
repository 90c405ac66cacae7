// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"pillion/proxy/http"
)

// Once the protocol was switched (RFC 9110 section 7.8), what follows the heads
// is octets until the end of the stream. Nothing is held back, so that a quiet
// tunnel owns no buffer for writing; nor does it own one for reading.

// tunnel makes all that follows the message's head, to the end of the stream,
// its body. What it is, and whether it is complete there, only the other protocol
// knows.
func (r *reader) tunnel() { r.kind, r.ended, r.foreign = http.BodyClose, false, true }

// writeTunnel sends octets; with end the client is told that they were the
// last.
func (c *ServerConn) writeTunnel(p []byte, end bool) error {
	c.ended = false
	if err := c.Flush(); err != nil {
		return err
	}
	if _, err := c.io.Write(p); err != nil {
		return errClientGone
	}
	if end {
		c.ended = true
		_ = c.io.CloseWrite()
	}
	return nil
}

// writeTunnel sends octets; with end the host is told that they were the last.
func (c *ClientConn) writeTunnel(p []byte, end bool) error {
	if err := c.Flush(); err != nil {
		return err
	}
	n, err := c.io.Write(p)
	c.written += uint64(n)
	if err != nil {
		return c.writeError(err)
	}
	if end {
		c.wroteAll = true
		_ = c.io.CloseWrite()
	}
	return nil
}
