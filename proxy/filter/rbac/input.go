// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"net/netip"
	"unsafe"

	"pillion/proxy/http"
	"pillion/proxy/match"
)

// input is what one decision is made by. Addresses are parsed when first asked
// for. It lives on the stack of who decides.
type input struct {
	conn   *http.ConnInfo
	head   *http.RequestHead // nil for a connection of raw bytes
	client []byte            // the client's address, if not the connection's
	data   *http.Metadata

	to, from         netip.AddrPort
	by               netip.Addr
	hasTo, hasFrom   bool
	hasBy, hasPath   bool
	pathWithoutQuery []byte
}

// path is the request's path as policies see it.
func (in *input) path() ([]byte, bool) {
	if in.head == nil || in.head.Path == nil {
		return nil, false
	}
	if !in.hasPath {
		in.pathWithoutQuery, _ = match.CutQuery(in.head.Path)
		in.hasPath = true
	}
	return in.pathWithoutQuery, true
}

// peer is the verified certificate of the other side, nil without one.
func (in *input) peer() *http.Certificate {
	if t := in.conn.TLS; t != nil && t.PeerVerified {
		return t.Peer
	}
	return nil
}

// serverName is the SNI; it is only read.
func (in *input) serverName() []byte {
	s := in.conn.SNI
	return unsafe.Slice(unsafe.StringData(s), len(s))
}

// destination is where the client meant to connect to.
func (in *input) destination() netip.AddrPort {
	if !in.hasTo {
		in.to, in.hasTo = parseAddrPort(in.conn.Destination()), true
	}
	return in.to
}

// direct is the address at the other end of the connection.
func (in *input) direct() netip.Addr {
	if !in.hasFrom {
		in.from, in.hasFrom = parseAddrPort(in.conn.Remote), true
	}
	return in.from.Addr()
}

// remote is the client's address.
func (in *input) remote() netip.Addr {
	if len(in.client) == 0 {
		return in.direct()
	}
	if !in.hasBy {
		in.hasBy = true
		// The text isn't kept by whoever parses it, but by an error, which is
		// dropped here, and by a zone, which no address of a client may have.
		a, err := netip.ParseAddr(unsafe.String(unsafe.SliceData(in.client), len(in.client)))
		if err != nil || a.Zone() != "" {
			a = in.direct()
		}
		in.by = a
	}
	return in.by
}

// parseAddrPort reads an address that the proxy wrote itself. The zero value,
// which is what it makes of anything else, is in no range.
func parseAddrPort(text string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(text)
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
