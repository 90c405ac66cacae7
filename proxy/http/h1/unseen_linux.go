// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"net"
	"time"

	"golang.org/x/sys/unix"

	"pillion/proxy/netio"
)

// finWait is how long the FIN of a host's socket may come after the close_notify of
// its TLS: they are two segments.
const finWait = 50 * time.Millisecond

// Unseen reports whether it is certain that the host's application saw
// nothing of the current request. Either none of it went to the socket, which
// knew already that the connection is broken; or the host had closed the
// connection (the read found its FIN) and its kernel has acknowledged none of
// the bytes. A socket that was closed before bytes arrive answers them by a
// reset, never by an acknowledgement. Without the FIN nothing is certain: the
// reset of an application that read the request and gave up acknowledges
// nothing either. Over TLS it is the socket below that tells: a close_notify
// alone may come of a host that goes on to read.
func (c *ClientConn) Unseen() bool {
	if !c.split && c.onSocket() == c.sentBefore { // else the other goroutine may be writing
		return true
	}
	// The kernel tells once that a connection was broken off, and from then on that
	// it has ended: what the read found comes first.
	if !c.rd.eofSeen {
		return false
	}
	nc := c.io.NetConn()
	if s, ok := nc.(netio.Sealed); ok {
		if c.sealed == nil || !c.io.AwaitEnd(finWait) {
			return false
		}
		nc = s.NetConn()
	}
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return false
	}
	unseen := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		// The SYN counts as one acknowledged byte.
		unseen = err == nil && info.Bytes_acked <= c.sentBefore+1
	})
	return err == nil && unseen
}
