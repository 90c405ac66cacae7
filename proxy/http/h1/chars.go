// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"encoding/binary"
	"math/bits"
)

// The classes of octets that the grammar tells apart.
const (
	isToken   = 1 << iota // tchar, RFC 9110 section 5.6.2
	isTarget              // what a request target may consist of here
	isRegName             // what a host name may consist of here
	isHex
	isDigit
)

// class gives the classes of each octet. Read-only.
var class = makeClasses()

func makeClasses() (t [256]uint8) {
	set := func(c uint8, members string) {
		for _, b := range []byte(members) {
			t[b] |= c
		}
	}
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	set(isToken, alnum+"!#$%&'*+-.^_`|~")
	// reg-name of RFC 3986 section 3.2.2 without the comma, which would make
	// the value look like a list of hosts, and without escapes, which would be
	// a second spelling of the same host.
	set(isRegName, alnum+"-._~!$&'()*+;=")
	set(isHex, "0123456789abcdefABCDEF")
	set(isDigit, "0123456789")
	// RFC 3986 is narrower: clients do send quotes, braces and the like
	// unescaped, and Envoy's normalization escapes them. A fragment is never
	// sent (RFC 9112 section 3.2), and two parsers may cut it off or not.
	for b := 0x21; b <= 0x7e; b++ {
		if b != '#' {
			t[b] |= isTarget
		}
	}
	return t
}

// One bit pattern in each of a word's eight octets.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// The two functions below look at eight octets at a time. Of an octet c in a
// word, c-0x20 has its high bit set and c hasn't if c is a control, and c+1
// likewise if c is DEL. A borrow or a carry can mark a neighbour falsely, but
// never hides a mark, so marked words are looked at octet by octet.

// valueEnd returns the index of the first octet from i on that can't stand in
// a field value (RFC 9110 section 5.5): a control other than HTAB. It is
// len(b) when there is none.
func valueEnd(b []byte, i int) int {
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		m := ((w - 0x20*ones) | (w + ones)) &^ w & highs
		if m == 0 {
			i += 8
			continue
		}
		// The octets below the lowest mark are good.
		i += bits.TrailingZeros64(m) / 8
		if !inValue(b[i]) {
			return i
		}
		i++
	}
	for i < len(b) && inValue(b[i]) {
		i++
	}
	return i
}

func inValue(c byte) bool { return c >= 0x20 && c != 0x7f || c == '\t' }

// targetEnd returns the index of the first octet from i on that can't stand
// in a request target, len(b) when there is none.
func targetEnd(b []byte, i int) int {
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		hash := w ^ '#'*ones
		m := ((w - 0x21*ones) | (w + ones) | w | (hash-ones)&^hash) & highs
		if m == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(m) / 8
		if class[b[i]]&isTarget == 0 {
			return i
		}
		i++
	}
	for i < len(b) && class[b[i]]&isTarget != 0 {
		i++
	}
	return i
}

// tokenEnd returns the index of the first octet from i on that can't stand in
// a token, len(b) when there is none.
func tokenEnd(b []byte, i int) int {
	for i < len(b) && class[b[i]]&isToken != 0 {
		i++
	}
	return i
}

// all reports whether every octet of b has class c.
func all(b []byte, c uint8) bool {
	for _, x := range b {
		if class[x]&c == 0 {
			return false
		}
	}
	return true
}

// trimOWS cuts spaces and tabs off both ends.
func trimOWS(b []byte) []byte {
	// One space in front and none behind is what nearly everybody sends.
	if len(b) > 1 && b[0] == ' ' {
		b = b[1:]
	}
	if len(b) > 0 && b[0] > ' ' && b[len(b)-1] > ' ' {
		return b
	}
	return trimAll(b)
}

func trimAll(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
