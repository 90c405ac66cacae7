// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bytes"

	"pillion/proxy/http"
)

// What a sender may spend on other things than content. A line that opens a
// chunk is free up to freeChunkLine octets, which the longest size and a line
// end need; what it has beyond, in extensions and leading zeros, must stay
// below chunkSlack plus the octets of content so far. Without a bound, a few
// octets of content cost a receiver any amount of work.
const (
	freeChunkLine = 18
	chunkSlack    = 16 << 10
)

// keepTrailerBytes is the most storage for trailers that a decoder keeps.
const keepTrailerBytes = 4 << 10

// chunkState is what the decoder expects next.
type chunkState uint8

const (
	chunkSize      chunkState = iota // the first digit of a size
	chunkDigits                      // more digits, or what ends them
	chunkExtension                   // what ends the line
	chunkLineEnd                     // the LF of the line
	chunkData                        // octets of content
	chunkDataCR                      // the CR behind them
	chunkDataLF                      // the LF behind them
	chunkTrailers                    // the trailer section
	chunkDone                        // nothing: the body has ended
	chunkBroken                      // nothing: the coding was broken
)

// ChunkDecoder takes the chunked coding (RFC 9112 section 7.1) off a body.
// Reset makes it ready. Not safe for concurrent use.
type ChunkDecoder struct {
	state chunkState
	from  http.Side
	lim   *Limits
	line  int   // octets of the current chunk's line so far
	left  int64 // octets of the current chunk still to come; its size so far
	total int64 // octets of content, saturating
	spent int64 // octets of lines beyond freeChunkLine each

	raw      []byte // the trailer section so far; trailers alias it
	trailers http.Fields
}

// Reset makes d ready for a new body that comes from the given side, which
// its errors blame, and keeps its memory. Trailers of the old body are lost.
func (d *ChunkDecoder) Reset(from http.Side, lim *Limits) {
	raw, trailers := d.raw, d.trailers
	trailers.Reset()
	if cap(raw) > keepTrailerBytes {
		raw = nil
	}
	*d = ChunkDecoder{from: from, lim: lim, raw: raw[:0], trailers: trailers}
}

// Next decodes the start of src. data is a piece of src that is content, n the
// number of bytes of src that are done with, of which data are the last. done
// tells that the body, with its trailer section, ended with them, and comes
// without data; what follows in src is the next message. When there is
// neither data nor done, all of src is done with and more bytes are needed.
func (d *ChunkDecoder) Next(src []byte) (data []byte, n int, done bool, err *http.Error) {
	for n < len(src) {
		switch d.state {
		case chunkData:
			k := len(src) - n
			if int64(k) > d.left {
				k = int(d.left)
			}
			d.left -= int64(k)
			d.total = min(d.total, 1<<62) + int64(k)
			if d.left == 0 {
				d.state = chunkDataCR
			}
			return src[n : n+k : n+k], n + k, false, nil
		case chunkTrailers:
			k, err := d.takeTrailers(src[n:])
			if err != nil {
				d.state = chunkBroken
				return nil, n, false, d.blame(err)
			}
			return nil, n + k, d.state == chunkDone, nil
		case chunkDone:
			return nil, n, true, nil
		}
		if !d.step(src[n]) {
			d.state = chunkBroken
			return nil, n, false, d.blame(errSyntax)
		}
		n++
	}
	return nil, n, d.state == chunkDone, nil
}

// blame returns the error of the decoder's side for err, which is that of a
// request.
func (d *ChunkDecoder) blame(err *http.Error) *http.Error {
	if d.from == http.SideUpstream {
		return errBadResponse
	}
	return err
}

// step takes one octet of the coding itself and reports whether it is one
// that may stand there. LF alone ends no line, and no octet is skipped: to
// stand for less than it says is how a chunk hides a request.
func (d *ChunkDecoder) step(c byte) bool {
	switch d.state {
	case chunkSize, chunkDigits:
		if class[c]&isHex != 0 {
			d.state = chunkDigits
			return d.digit(c) && d.spend()
		}
		return d.state == chunkDigits && d.afterSize(c) && d.spend()
	case chunkExtension:
		if c == '\r' {
			d.state = chunkLineEnd
			return d.spend()
		}
		return (c >= ' ' && c != 0x7f || c == '\t') && d.spend()
	case chunkLineEnd:
		d.state = chunkData
		if d.left == 0 {
			d.state = chunkTrailers
		}
		return c == '\n' && d.spend()
	case chunkDataCR:
		d.state = chunkDataLF
		return c == '\r'
	case chunkDataLF:
		d.state, d.line = chunkSize, 0
		return c == '\n'
	}
	return false
}

// digit takes a digit of the size, false if the size passes 2^63-1.
func (d *ChunkDecoder) digit(c byte) bool {
	if d.left > (1<<63-1)>>4 {
		return false
	}
	d.left = d.left<<4 | int64(hexValue(c))
	return true
}

// afterSize takes the octet that ends the size. The space that RFC 9112 section
// 7.1.1 lets stand in front of an extension is refused: nobody sends it, and
// recipients differ on it.
func (d *ChunkDecoder) afterSize(c byte) bool {
	switch c {
	case '\r':
		d.state = chunkLineEnd
	case ';':
		d.state = chunkExtension
	default:
		return false
	}
	return true
}

// spend accounts for one octet of a line that opens a chunk.
func (d *ChunkDecoder) spend() bool {
	d.line++
	if d.line <= freeChunkLine {
		return true
	}
	d.spent++
	return d.line <= d.lim.chunkLine() && d.spent <= chunkSlack+d.total
}

// takeTrailers gathers the trailer section from the start of src, up to its
// end, and returns how many octets it took. Errors are those for requests.
func (d *ChunkDecoder) takeTrailers(src []byte) (n int, err *http.Error) {
	if len(d.raw) == 0 && bytes.HasPrefix(src, []byte("\r\n")) {
		d.state = chunkDone
		return 2, nil
	}
	for n < len(src) {
		k := bytes.IndexByte(src[n:], '\n') + 1
		ended := k > 0
		if !ended {
			k = len(src) - n
		}
		if len(d.raw)+k > d.lim.headBytes() {
			return 0, errHeadSize
		}
		d.raw = append(d.raw, src[n:n+k]...)
		n += k
		if !ended {
			continue
		}
		if !bytes.HasSuffix(d.raw, []byte("\r\n")) {
			return 0, errSyntax
		}
		if len(d.raw) == 2 || bytes.HasSuffix(d.raw, []byte("\n\r\n")) {
			d.state = chunkDone
			return n, d.parseTrailers()
		}
	}
	return n, nil
}

// parseTrailers parses the complete trailer section and drops the fields that
// must not be in one.
func (d *ChunkDecoder) parseTrailers() *http.Error {
	var l lines
	if _, err := l.parse(&d.trailers, d.raw, 0, d.lim.fields(), ofTrailers); err != nil {
		return err
	}
	fields := d.trailers.All()
	w := 0
	for r := range fields {
		if http.AllowedTrailer(&fields[r]) {
			fields[w] = fields[r]
			w++
		}
	}
	d.trailers.Truncate(w)
	return nil
}

// Trailers returns the trailer fields once Next was done; nil when none came.
// They are in memory of the decoder's own, and valid until Reset.
func (d *ChunkDecoder) Trailers() *http.Fields {
	if d.trailers.Len() == 0 {
		return nil
	}
	return &d.trailers
}

func hexValue(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
