// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"net"

	"golang.org/x/sys/unix"
)

// Unseen reports whether it is certain that the host's application saw
// nothing of the current request: its kernel has acknowledged none of the
// bytes. A socket that the application had closed before they arrived is
// answered by a reset, never by an acknowledgement.
func (c *ClientConn) Unseen() bool {
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
