// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"net"

	"golang.org/x/sys/unix"
)

// Unseen reports whether it is certain that the host's application saw
// nothing of the current request: the host had closed the connection (the
// read found its FIN) and its kernel has acknowledged none of the bytes. A
// socket that was closed before bytes arrive answers them by a reset, never by
// an acknowledgement. Without the FIN nothing is certain: the reset of an
// application that read the request and gave up acknowledges nothing either.
func (c *ClientConn) Unseen() bool {
	if !c.rd.eofSeen {
		return false
	}
	tc, ok := c.io.NetConn().(*net.TCPConn)
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
