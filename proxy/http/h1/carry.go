// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"pillion/proxy/http"
	"pillion/proxy/netio"
)

// The kernel moves a body by itself from how many octets at a time (carryPiece) and
// from how many that are left to come (carryLeast). The last ones (carryTail) are read
// and written as usual: that is how either side learns that the message ends.
const (
	carryPiece = 32 << 10
	carryLeast = 128 << 10
	carryTail  = 4 << 10
)

// CarryResponse has the kernel move a part of the response's body from up to down
// (splice(2)), as long as much of it comes at a time, and returns how many octets were
// moved: 0 where the body needs framing or a copy is as good. It may follow each
// WriteBody of what ReadBody returned. Errors are those of up's ReadBody and of down's
// WriteBody.
func CarryResponse(down *ServerConn, up *ClientConn) (n int64, upErr, downErr error) {
	if down.chunked || down.noBody || down.tunnel || down.out.len() > 0 {
		return 0, nil, nil
	}
	n, upErr, downErr = up.rd.carry(&down.io)
	if downErr != nil {
		down.closing = true
		return n, nil, errClientGone
	}
	if upErr != nil {
		upErr = bodyError(upErr)
	}
	return n, upErr, nil
}

// CarryRequest is CarryResponse for the request's body. Errors are those of down's
// ReadBody and of up's WriteBody.
func CarryRequest(up *ClientConn, down *ServerConn) (n int64, err error) {
	if up.chunked || up.tunnel || up.out.len() > 0 {
		return 0, nil
	}
	n, downErr, upErr := down.rd.carry(&up.io)
	up.written += uint64(n)
	switch {
	case upErr != nil:
		return n, up.writeError(upErr)
	case downErr != nil:
		return n, requestError(downErr)
	}
	return n, nil
}

// carry moves what comes of the body to another connection, if much is to follow, for
// the first time at the body's beginning and then whenever the last piece was big.
func (r *reader) carry(to *netio.Conn) (n int64, srcErr, dstErr error) {
	if r.kind != http.BodyLength || r.left < carryLeast || r.in.Len() > r.adv || r.carried && r.adv < carryPiece {
		return 0, nil, nil
	}
	r.carried = true
	r.drop()
	if r.pin {
		r.unpin()
	}
	r.in.Release()
	n, srcErr, dstErr = netio.Carry(to, r.io, r.left-carryTail)
	r.left -= n
	return n, cut(r.noteEOF(srcErr)), dstErr
}
