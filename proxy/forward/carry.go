// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"pillion/proxy/http"
	"pillion/proxy/http/h1"
)

// sockets returns the HTTP/1 connections of both sides where bodies may go from one
// to the other unseen; otherwise ok is false.
func (c *Call) sockets() (down *h1.ServerConn, up *h1.ClientConn, ok bool) {
	if c.conn == nil || c.ex.GRPC { // messages are counted
		return nil, nil, false
	}
	down = c.down.Socket()
	return down, c.conn.H1, down != nil
}

// carryResponse has the kernel move what it can of a big response.
func (c *Call) carryResponse() *http.Error {
	down, up, ok := c.sockets()
	if !ok {
		return nil
	}
	n, upErr, downErr := h1.CarryResponse(down, up)
	c.ex.ResponseBodyBytes += n
	switch {
	case downErr != nil:
		return errCancelled
	case upErr != nil:
		return c.bodyFailed(upErr)
	}
	return nil
}

// carryRequest has the kernel move what it can of a big request, which nobody
// remembers for another try. Its end is left to the caller, see took.
func (c *Call) carryRequest() *http.Error {
	down, up, ok := c.sockets()
	if !ok || c.body.on {
		return nil
	}
	n, err := h1.CarryRequest(up, down)
	c.ex.RequestBodyBytes += n
	if err != nil {
		return asError(err)
	}
	return nil
}
