// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"hash/maphash"
	"unsafe"

	"golang.org/x/net/http2/hpack"

	"pillion/proxy/http"
)

// encoder encodes header blocks (RFC 7541). Values that are likely to come
// again go into the dynamic table, in Huffman code; those that differ from
// message to message are sent as they are, which costs the least time.
type encoder struct {
	table
	// lowest is the smallest limit that the peer set since the last block;
	// resized says that there was one (RFC 7541 section 4.2).
	lowest  uint32
	resized bool
}

func (e *encoder) init() { e.max = defaultTableSize }

// maxEncoderTable bounds the table, whatever the peer offers.
const maxEncoderTable = 4096

// setPeerMax heeds the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) setPeerMax(n uint32) {
	n = min(n, maxEncoderTable)
	if !e.resized || n < e.lowest {
		e.lowest = n
	}
	e.resized = true
	e.setMax(n)
}

// begin starts a block: changes of the table's size are announced first.
func (e *encoder) begin(dst []byte) []byte {
	if !e.resized {
		return dst
	}
	e.resized = false
	if e.lowest < e.max {
		dst = appendInt(dst, 0x20, 5, uint64(e.lowest))
	}
	return appendInt(dst, 0x20, 5, uint64(e.max))
}

// staticName gives the static index of a name with a number, 0 for none. Read-only.
var staticName = func() (t [256]uint8) {
	for i := staticLen; i > 0; i-- {
		if id := static[i].ID; id != http.HeaderOther {
			t[id] = uint8(i)
		}
	}
	return t
}()

// fleeting are the fields whose values hardly ever come again. Read-only.
var fleeting = func() (t [256]bool) {
	for _, id := range [...]http.HeaderID{
		http.HeaderContentLength, http.HeaderXRequestID, http.HeaderXEnvoyUpstreamServiceTime,
		http.HeaderXForwardedFor, http.HeaderGRPCTimeout, http.HeaderGRPCMessage, http.HeaderTraceparent,
	} {
		t[id] = true
	}
	return t
}()

// isFleeting reports whether a field is one of these, or of their kind
// without a number.
func isFleeting(f *http.Field) bool {
	if f.ID != http.HeaderOther {
		return fleeting[f.ID]
	}
	switch string(f.Name) {
	case "age", "etag", "if-modified-since", "if-none-match", "set-cookie", "last-modified", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid":
		return true
	}
	return false
}

var hashSeed = maphash.MakeSeed()

func hashOf(name, value []byte) uint32 {
	h := maphash.Bytes(hashSeed, value)
	return uint32(h) ^ uint32(h>>32) ^ uint32(len(name))<<16 ^ uint32(name[len(name)-1])<<8
}

// field appends a regular field. The name may be in any case; it is sent in
// lower case.
func (e *encoder) field(dst []byte, f *http.Field) []byte {
	nameIndex := int(staticName[f.ID])
	if f.NeverIndex || isFleeting(f) {
		first := byte(0)
		if f.NeverIndex {
			first = 0x10
		}
		dst = e.name(dst, first, 4, nameIndex, f.Name)
		return appendPlain(dst, f.Value)
	}
	return e.indexed(dst, f.ID, nameIndex, f.Name, f.Value)
}

// indexed appends a field by the dynamic table, into which it goes if it
// isn't there yet.
func (e *encoder) indexed(dst []byte, id http.HeaderID, nameIndex int, name, value []byte) []byte {
	if e.hash == nil {
		e.hash = []uint32{}
	}
	hash := hashOf(name, value)
	for i := e.n - 1; i >= 0; i-- {
		place := (e.first + i) & (len(e.ring) - 1)
		if e.hash[place] != hash {
			continue
		}
		if x := &e.ring[place]; bytes.Equal(x.Value, value) && x.Is(id, name) {
			return appendInt(dst, 0x80, 7, uint64(staticLen+e.n-i))
		}
	}
	if fieldSize(name, value) > e.max/2 {
		// It would throw out most of what is there.
		dst = e.name(dst, 0, 4, nameIndex, name)
		return appendPlain(dst, value)
	}
	if nameIndex == 0 {
		nameIndex = e.knownName(id, name)
	}
	dst = e.name(dst, 0x40, 6, nameIndex, name)
	dst = appendHuffman(dst, value)
	var x entry
	x.ID = id
	x.Name, x.Value = lower(name), bytes.Clone(value)
	e.add(x, hash)
	return dst
}

// knownName returns the index of a name that is in the dynamic table, 0 if it
// isn't. It is asked only when an entry is made.
func (e *encoder) knownName(id http.HeaderID, name []byte) int {
	for i := 1; i <= e.n; i++ {
		if e.at(i).Is(id, name) {
			return staticLen + i
		}
	}
	return 0
}

// name appends the first octet of a literal and, if it has no index, the name.
func (e *encoder) name(dst []byte, first byte, prefix uint, index int, name []byte) []byte {
	dst = appendInt(dst, first, prefix, uint64(index))
	if index > 0 {
		return dst
	}
	dst = appendInt(dst, 0, 7, uint64(len(name)))
	from := len(dst)
	dst = append(dst, name...)
	lowerInPlace(dst[from:])
	return dst
}

// pseudoField appends a pseudo-header field of which the table has the name.
func (e *encoder) pseudoField(dst []byte, nameIndex int, value []byte, keep bool) []byte {
	if !keep {
		return appendPlain(e.name(dst, 0, 4, nameIndex, nil), value)
	}
	return e.indexed(dst, http.HeaderOther, nameIndex, static[nameIndex].Name, value)
}

func appendPlain(dst, s []byte) []byte { return append(appendInt(dst, 0, 7, uint64(len(s))), s...) }

func appendHuffman(dst, s []byte) []byte {
	text := unsafe.String(unsafe.SliceData(s), len(s))
	n := hpack.HuffmanEncodeLength(text)
	if n >= uint64(len(s)) {
		return appendPlain(dst, s)
	}
	return hpack.AppendHuffmanString(appendInt(dst, 0x80, 7, n), text)
}

// appendInt encodes an integer behind the flags in first (RFC 7541 section 5.1).
func appendInt(dst []byte, first byte, n uint, v uint64) []byte {
	limit := uint64(1)<<n - 1
	if v < limit {
		return append(dst, first|byte(v))
	}
	dst = append(dst, first|byte(limit))
	for v -= limit; v >= 0x80; v >>= 7 {
		dst = append(dst, byte(v)|0x80)
	}
	return append(dst, byte(v))
}

func lower(s []byte) []byte {
	c := bytes.Clone(s)
	lowerInPlace(c)
	return c
}

func lowerInPlace(s []byte) {
	for i, c := range s {
		if 'A' <= c && c <= 'Z' {
			s[i] = c + 'a' - 'A'
		}
	}
}
