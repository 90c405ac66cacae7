// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tellLeft makes the kernel say with each read of receiveLeft what is left, from the
// next one on. It reports whether it does (tcp(7) has it as TCP_INQ; Linux 4.18).
func tellLeft(fd uintptr) bool {
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_INQ, 1) == nil
}

// leftMessage is the control message that says what is left.
type leftMessage struct {
	unix.Cmsghdr
	octets int32
	_      [4]byte // CMSG_SPACE rounds up
}

// receiveLeft is receive that also reports whether anything is left to read,
// which may be the end: the kernel says 1 for it when all else was taken
// (tcp_inq_hint in net/ipv4/tcp.c).
func receiveLeft(fd uintptr, p []byte) (n int, left bool, err error) {
	if len(p) == 0 {
		return 0, true, nil
	}
	var told leftMessage
	iov := unix.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	msg := unix.Msghdr{Iov: &iov, Control: (*byte)(unsafe.Pointer(&told))}
	msg.SetIovlen(1)
	for {
		msg.SetControllen(int(unsafe.Sizeof(told)))
		got, _, errno := syscall.RawSyscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&msg)), 0)
		switch errno {
		case 0:
			said := msg.Controllen != 0 && told.Level == unix.IPPROTO_TCP && told.Type == unix.TCP_CM_INQ
			return int(got), !said || told.octets != 0, nil
		case syscall.EINTR:
		default:
			return 0, true, errno
		}
	}
}
