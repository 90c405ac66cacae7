// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"golang.org/x/net/http2/hpack"
)

// Block is one decoded header block. It is owned by the connection's reader
// and valid during the call of a Receiver.
type Block struct {
	fields []decoded
	// size is the block's size as RFC 9113 section 6.5.2 counts it, with all
	// that was left out; wire its encoded size.
	size, wire int
	// over is set when a limit was passed: fields are incomplete then.
	over bool
	text []byte // what literals that are in no table point into
}

// Wire returns the size of the block as it came, in bytes.
func (b *Block) Wire() int { return b.wire }

// decoded is one field of a block. stable tells that its octets are those of
// a table and outlive the block.
type decoded struct {
	entry
	stable bool
}

// decoder decodes header blocks (RFC 7541). It differs from hpack.Decoder in
// that it makes no string of a literal that goes into no table.
type decoder struct {
	table
	// allowed is the SETTINGS_HEADER_TABLE_SIZE that we announced.
	allowed   uint32
	maxBytes  int // of Block.size
	maxFields int
	out       Block
}

func newDecoder(maxBytes, maxFields int) *decoder {
	return &decoder{table: table{max: defaultTableSize}, allowed: defaultTableSize, maxBytes: maxBytes, maxFields: maxFields}
}

// defaultTableSize is the initial SETTINGS_HEADER_TABLE_SIZE.
const defaultTableSize = 4096

// decode decodes a whole block. Every error is a COMPRESSION_ERROR of the
// connection (RFC 9113 section 4.3), since the tables have parted ways.
func (d *decoder) decode(p []byte) (*Block, *connError) {
	b := &d.out
	b.fields, b.text = b.fields[:0], b.text[:0]
	b.size, b.wire, b.over = 0, len(p), false
	updates := true // of the table's size, allowed at the start only
	for len(p) > 0 {
		var err *connError
		switch c := p[0]; {
		case c&0x80 != 0:
			p, err = d.indexed(p)
		case c&0xc0 == 0x40:
			p, err = d.literal(p, 6, true, false)
		case c&0xe0 == 0x20:
			if !updates {
				return nil, errTableUpdate
			}
			if p, err = d.sizeUpdate(p); err != nil {
				return nil, err
			}
			continue
		default:
			p, err = d.literal(p, 4, false, c&0x10 != 0)
		}
		if err != nil {
			return nil, err
		}
		updates = false
	}
	return b, nil
}

// emit charges a field before anything is kept of it.
func (d *decoder) emit(e *entry, stable bool) {
	b := &d.out
	b.size += int(e.size())
	if b.over = b.over || b.size > d.maxBytes || len(b.fields) >= d.maxFields+maxPseudo; b.over {
		return
	}
	b.fields = append(b.fields, decoded{entry: *e, stable: stable})
}

// maxPseudo bounds the pseudo-header fields of a block, which don't count as fields.
const maxPseudo = 6

// entry returns the field of an index (RFC 7541 section 2.3.3).
func (d *decoder) entry(i uint64) *entry {
	switch {
	case i == 0:
		return nil
	case i <= staticLen:
		return &static[i]
	case i-staticLen <= uint64(d.n):
		return d.at(int(i - staticLen))
	}
	return nil
}

func (d *decoder) indexed(p []byte) ([]byte, *connError) {
	i, p, ok := readInt(p, 7)
	if !ok {
		return nil, errHpackInt
	}
	e := d.entry(i)
	if e == nil {
		return nil, errHpackIndex
	}
	d.emit(e, true)
	return p, nil
}

func (d *decoder) sizeUpdate(p []byte) ([]byte, *connError) {
	n, p, ok := readInt(p, 5)
	if !ok || n > uint64(d.allowed) {
		return nil, errTableUpdate
	}
	d.setMax(uint32(n))
	return p, nil
}

// literal decodes a field whose value, and maybe name, is spelt out.
func (d *decoder) literal(p []byte, prefix uint, index, never bool) ([]byte, *connError) {
	i, p, ok := readInt(p, prefix)
	if !ok {
		return nil, errHpackInt
	}
	var e entry
	var err *connError
	named := i > 0
	if named {
		from := d.entry(i)
		if from == nil {
			return nil, errHpackIndex
		}
		e.Name, e.ID, e.pseudo, e.bad = from.Name, from.ID, from.pseudo, !validName(from.Name, from.pseudo)
	} else if e.Name, p, err = d.text(p, index); err != nil {
		return nil, err
	}
	if e.Value, p, err = d.text(p, index); err != nil {
		return nil, err
	}
	if named {
		e.bad = e.bad || !validValue(e.Value)
	} else {
		e.describe()
	}
	e.NeverIndex = never
	stable := index && d.add(e, 0)
	// A literal with a name from a table and a value of its own is copied whole.
	d.emit(&e, stable || index)
	return p, nil
}

// text decodes a string literal (RFC 7541 section 5.2) into memory of its own
// if it goes into the table, else into the block's.
func (d *decoder) text(p []byte, keep bool) (s, rest []byte, err *connError) {
	if len(p) == 0 {
		return nil, nil, errHpackString
	}
	huffman := p[0]&0x80 != 0
	n, p, ok := readInt(p, 7)
	if !ok || n > uint64(len(p)) {
		return nil, nil, errHpackString
	}
	raw, rest := p[:n], p[n:]
	b := &d.out
	from := len(b.text)
	if huffman {
		// hpack allows no string to end in more than seven bits of padding and
		// none to hold EOS.
		if _, herr := hpack.HuffmanDecode((*appender)(&b.text), raw); herr != nil {
			return nil, nil, errHpackHuffman
		}
	} else {
		b.text = append(b.text, raw...)
	}
	s = b.text[from:len(b.text):len(b.text)]
	if keep {
		s = append(make([]byte, 0, len(s)), s...)
		b.text = b.text[:from]
	}
	return s, rest, nil
}

// appender is a byte slice that can be written to.
type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// readInt decodes an integer with an n-bit prefix (RFC 7541 section 5.1).
func readInt(p []byte, n uint) (v uint64, rest []byte, ok bool) {
	if len(p) == 0 {
		return 0, nil, false
	}
	limit := uint64(1)<<n - 1
	v = uint64(p[0]) & limit
	p = p[1:]
	if v < limit {
		return v, p, true
	}
	for shift := uint(0); len(p) > 0; shift += 7 {
		if shift > 28 {
			return 0, nil, false // nothing that is that large can be meant
		}
		c := p[0]
		p = p[1:]
		v += uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			return v, p, true
		}
	}
	return 0, nil, false
}
