// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"pillion/proxy/http"
)

// Original says that connections of a listener may have been redirected to it (by
// iptables), and what becomes of those that were: they know where they were
// going (xDS: the listener filter original_dst). Immutable.
type Original struct {
	// HandOff is where the listener of that address is found, which then serves
	// the connection in this one's place (xDS: use_original_dst); nil keeps it.
	HandOff *Dispatch
	// Lookup asks where a connection was going; false: it is where it belongs.
	// nil asks the kernel.
	Lookup func(nc net.Conn) (netip.AddrPort, bool)
}

// find returns the listener for a connection that l has accepted, and completes
// info. As in Envoy an address that is the socket's own means that nothing was
// redirected (OriginalDstFilter::onAccept): such a connection is l's.
func (o *Original) find(nc net.Conn, info *http.ConnInfo, l *Listener) *Listener {
	lookup := o.Lookup
	if lookup == nil {
		lookup = kernelOriginal
	}
	dst, ok := lookup(nc)
	if !ok || dst == ownAddress(nc) {
		return l
	}
	info.OriginalDst = dst.String()
	if o.HandOff == nil {
		return l
	}
	if other := o.HandOff.table.Load().Find(dst); other != nil {
		return other
	}
	return l
}

// ownAddress is the address that a connection came to, comparable.
func ownAddress(nc net.Conn) netip.AddrPort {
	a, ok := nc.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return plain(a.AddrPort())
}

// plain strips what makes equal addresses differ.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Dispatch is the place where the current Table is found. The zero value has
// none. Safe for concurrent use.
type Dispatch struct {
	table atomic.Pointer[Table] // nil before the first Store
}

// Store makes t the table for the connections that come from now on.
func (d *Dispatch) Store(t *Table) { d.table.Store(t) }

// Table finds listeners by the address that a connection was meant for. Like Envoy
// (ConnectionHandlerImpl::getBalancedHandlerByAddress) it knows all of them, the
// bound ones too. Immutable.
type Table struct {
	byAddr map[netip.AddrPort]*Listener
}

// NewTable makes a table of listeners. Two of the same address are an error.
func NewTable(listeners []*Listener) (*Table, error) {
	t := &Table{byAddr: make(map[netip.AddrPort]*Listener, len(listeners))}
	for _, l := range listeners {
		for _, a := range l.keys {
			if other := t.byAddr[a]; other != nil && other != l {
				return nil, fmt.Errorf("listener %s: has the address %s of listener %s; remove one of them", l.name, a, other.name)
			}
			t.byAddr[a] = l
		}
	}
	return t, nil
}

// keysOf returns under what a table has an address: nothing for a name, which no
// connection was ever meant for, and one for each family where addr has no IP.
func keysOf(addr string) []netip.AddrPort {
	if a, err := netip.ParseAddrPort(addr); err == nil {
		return []netip.AddrPort{plain(a)}
	}
	if !strings.HasPrefix(addr, ":") {
		return nil
	}
	a, err := netip.ParseAddrPort("[::]" + addr)
	if err != nil {
		return nil
	}
	return []netip.AddrPort{a, netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())}
}

// Find returns the listener of an address, or else that of every address with its
// port, or nil.
func (t *Table) Find(dst netip.AddrPort) *Listener {
	if t == nil {
		return nil
	}
	if l := t.byAddr[dst]; l != nil {
		return l
	}
	every := netip.IPv6Unspecified()
	if dst.Addr().Is4() {
		every = netip.IPv4Unspecified()
	}
	return t.byAddr[netip.AddrPortFrom(every, dst.Port())]
}
