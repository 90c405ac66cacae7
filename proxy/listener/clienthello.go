// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"bytes"
	"encoding/binary"
)

// Numbers of TLS (RFC 8446 sections 4 and 5.1; RFC 6066 section 3; RFC 7301).
const (
	recordHandshake   = 22
	recordHeader      = 5
	maxRecord         = 1<<14 + 256
	handshakeHello    = 1
	handshakeHeader   = 4
	extensionSNI      = 0
	extensionALPN     = 16
	serverNameHost    = 0
	helloFixed        = 2 + 32 // legacy_version, random
	maxServerNameSize = 255
)

// sniffTLS recognises a ClientHello, be it cut into records as it may, and
// fills h from it.
func sniffTLS(p []byte, h *Hello) verdict {
	hello, v := handshake(p)
	if v == undecided && len(p) >= MaxHello {
		h.TooLarge = true
		return differs
	}
	if v != matches {
		return v
	}
	if !parseHello(hello, h) {
		return differs
	}
	h.Protocol = TLS
	return matches
}

// handshake returns the body of the ClientHello that p begins with. It is a
// part of p if one record holds it all.
func handshake(p []byte) ([]byte, verdict) {
	var joined []byte
	for first := true; ; first = false {
		if len(p) < recordHeader {
			return nil, startOfRecord(p)
		}
		size := int(binary.BigEndian.Uint16(p[3:]))
		if startOfRecord(p) == differs || size == 0 || size > maxRecord {
			return nil, differs
		}
		rest := p[recordHeader:]
		body := rest[:min(size, len(rest))]
		if first {
			joined = body[:len(body):len(body)] // the next append copies
		} else {
			joined = append(joined, body...)
		}
		if len(joined) > 0 && joined[0] != handshakeHello {
			return nil, differs
		}
		if len(joined) >= handshakeHeader {
			whole := handshakeHeader + int(joined[1])<<16 + int(joined[2])<<8 + int(joined[3])
			if len(joined) >= whole {
				return joined[handshakeHeader:whole], matches
			}
		}
		if len(rest) < size {
			return nil, undecided
		}
		p = rest[size:]
	}
}

// startOfRecord judges a record by as much of its header as there is.
func startOfRecord(p []byte) verdict {
	if len(p) > 0 && p[0] != recordHandshake || len(p) > 1 && p[1] != 3 || len(p) > 2 && p[2] > 4 {
		return differs
	}
	return undecided
}

// parseHello reads server name and protocols. false: it is no ClientHello.
func parseHello(p []byte, h *Hello) bool {
	if len(p) < helloFixed {
		return false
	}
	r := reader{rest: p[helloFixed:]}
	r.take(r.length(1)) // session ID
	if suites := r.take(r.length(2)); len(suites) == 0 || len(suites)%2 != 0 {
		return false
	}
	if compression := r.take(r.length(1)); len(compression) == 0 {
		return false
	}
	if len(r.rest) == 0 {
		return !r.short // TLS before extensions
	}
	extensions := reader{rest: r.take(r.length(2))}
	if len(r.rest) > 0 {
		return false
	}
	for len(extensions.rest) > 0 && !extensions.short {
		kind := extensions.length(2)
		body := reader{rest: extensions.take(extensions.length(2))}
		switch kind {
		case extensionSNI:
			if !body.serverName(h) {
				return false
			}
		case extensionALPN:
			if !body.protocols(h) {
				return false
			}
		}
	}
	return !r.short && !extensions.short
}

// serverName reads the extension's first host name.
func (r *reader) serverName(h *Hello) bool {
	list := reader{rest: r.take(r.length(2))}
	for len(list.rest) > 0 && !list.short {
		kind := list.length(1)
		name := list.take(list.length(2))
		if kind == serverNameHost && h.ServerName == "" && len(name) <= maxServerNameSize {
			h.ServerName = string(bytes.ToLower(name))
		}
	}
	return !r.short && !list.short
}

func (r *reader) protocols(h *Hello) bool {
	list := reader{rest: r.take(r.length(2))}
	for len(list.rest) > 0 && !list.short {
		if name := list.take(list.length(1)); len(name) > 0 {
			h.ALPN = append(h.ALPN, string(name))
		}
	}
	return !r.short && !list.short
}

// reader takes bytes off the front; short says that there weren't enough.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.short, r.rest = true, nil
		return nil
	}
	p := r.rest[:n]
	r.rest = r.rest[n:]
	return p
}

// length reads a number of that many bytes.
func (r *reader) length(bytes int) (n int) {
	for _, b := range r.take(bytes) {
		n = n<<8 | int(b)
	}
	return n
}
