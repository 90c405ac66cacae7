// SPDX-License-Identifier: Apache-2.0

package grpcweb

import "encoding/base64"

// decoder reads base64 that comes in pieces. Padding may stand anywhere at the
// end of a group, as clients encode each message by itself. The zero value is
// ready.
type decoder struct {
	have [4]byte // of a group
	n    int
}

// decode appends what src stands for. false: it is no base64.
func (d *decoder) decode(dst, src []byte) ([]byte, bool) {
	if d.n > 0 {
		k := copy(d.have[d.n:], src)
		d.n += k
		src = src[k:]
		if d.n < len(d.have) {
			return dst, true
		}
		d.n = 0
		var ok bool
		if dst, ok = appendGroup(dst, d.have[:]); !ok {
			return dst, false
		}
	}
	for ; len(src) >= 4; src = src[4:] {
		var ok bool
		if dst, ok = appendGroup(dst, src[:4]); !ok {
			return dst, false
		}
	}
	d.n = copy(d.have[:], src)
	return dst, true
}

// ended reports whether no part of a group is left.
func (d *decoder) ended() bool { return d.n == 0 }

// notBase64 marks octets that no digit has.
const notBase64 = 0xff

var digits = func() (t [256]byte) {
	for i := range t {
		t[i] = notBase64
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = byte(i)
	}
	return t
}()

// appendGroup appends what four digits stand for. The bits that padding leaves
// over have to be 0 (RFC 4648 section 3.5; Envoy: Base64::decode).
func appendGroup(dst, g []byte) ([]byte, bool) {
	a, b, c, d := digits[g[0]], digits[g[1]], digits[g[2]], digits[g[3]]
	if a == notBase64 || b == notBase64 {
		return dst, false
	}
	switch {
	case g[3] != '=':
		if c == notBase64 || d == notBase64 {
			return dst, false
		}
		return append(dst, a<<2|b>>4, b<<4|c>>2, c<<6|d), true
	case g[2] != '=':
		if c == notBase64 || c&3 != 0 {
			return dst, false
		}
		return append(dst, a<<2|b>>4, b<<4|c>>2), true
	}
	return append(dst, a<<2|b>>4), b&15 == 0
}

// encoder writes base64 in pieces. The zero value is ready.
type encoder struct {
	have [3]byte
	n    int
}

// encode appends the digits of src, as far as they are known.
func (e *encoder) encode(dst, src []byte) []byte {
	if e.n > 0 {
		k := copy(e.have[e.n:], src)
		e.n += k
		src = src[k:]
		if e.n < len(e.have) {
			return dst
		}
		e.n = 0
		dst = base64.StdEncoding.AppendEncode(dst, e.have[:])
	}
	whole := len(src) / 3 * 3
	dst = base64.StdEncoding.AppendEncode(dst, src[:whole])
	e.n = copy(e.have[:], src[whole:])
	return dst
}

// end appends what is left, with padding.
func (e *encoder) end(dst []byte) []byte {
	dst = base64.StdEncoding.AppendEncode(dst, e.have[:e.n])
	e.n = 0
	return dst
}
