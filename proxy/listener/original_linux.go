// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"
)

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and also
// IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h.
const soOriginalDst = 80

// original is one question to the kernel. It is kept for the next one, because
// what a system call writes to has to lie on the heap.
type original struct {
	level uintptr
	errno syscall.Errno
	size  uint32
	// sa has room for an address of IPv4 too.
	sa syscall.RawSockaddrInet6
	// ask is o.getsockopt, bound once.
	ask func(fd uintptr)
}

var originals = sync.Pool{New: func() any {
	o := new(original)
	o.ask = o.getsockopt
	return o
}}

func (o *original) getsockopt(fd uintptr) {
	o.size = uint32(unsafe.Sizeof(o.sa))
	_, _, o.errno = syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, o.level, soOriginalDst,
		uintptr(unsafe.Pointer(&o.sa)), uintptr(unsafe.Pointer(&o.size)), 0)
}

// kernelOriginal asks the kernel's table of connections where one was going before
// NAT. false: it has no NAT, or the kernel doesn't track connections.
func kernelOriginal(nc net.Conn) (netip.AddrPort, bool) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, false
	}
	o := originals.Get().(*original)
	defer originals.Put(o)
	if o.level = syscall.IPPROTO_IPV6; ownAddress(nc).Addr().Is4() { // also that of a mapped address
		o.level = syscall.IPPROTO_IP
	}
	if err := raw.Control(o.ask); err != nil || o.errno != 0 {
		return netip.AddrPort{}, false
	}
	return o.address()
}

// address reads what the kernel has written.
func (o *original) address() (netip.AddrPort, bool) {
	switch o.sa.Family {
	case syscall.AF_INET:
		four := (*syscall.RawSockaddrInet4)(unsafe.Pointer(&o.sa))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), networkOrder(four.Port)), true
	case syscall.AF_INET6:
		return plain(netip.AddrPortFrom(netip.AddrFrom16(o.sa.Addr), networkOrder(o.sa.Port))), true
	}
	return netip.AddrPort{}, false
}

// networkOrder reads a port that lies in memory as it goes over the wire.
func networkOrder(port uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return binary.BigEndian.Uint16(b[:])
}
