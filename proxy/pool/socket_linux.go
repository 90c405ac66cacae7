// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// lateBind makes the kernel choose the port of a bound socket when it knows
// the peer. Otherwise one local address has ports for some 28,000
// connections in all, not to each peer (ip(7), IP_BIND_ADDRESS_NO_PORT).
func lateBind(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}); cerr != nil {
		return cerr
	}
	if err == unix.ENOPROTOOPT { // kernels before 4.2
		return nil
	}
	return err
}
