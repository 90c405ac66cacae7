// SPDX-License-Identifier: Apache-2.0

package h1

import "pillion/proxy/http"

// ChunkDecoder takes the chunked coding (RFC 9112 section 7.1) off a body.
// Reset makes it ready. Not safe for concurrent use.
type ChunkDecoder struct {
	trailers http.Fields
}

// Reset makes d ready for a new body that comes from the given side, which
// its errors blame, and keeps its memory. Trailers of the old body are lost.
func (d *ChunkDecoder) Reset(from http.Side, lim *Limits) {}

// Next decodes the start of src. data is a piece of src that is payload, n the
// number of bytes of src that are done with, data included. done tells that
// the body, with its trailer section, ended with them; what follows in src is
// the next message. Call again with the rest of src until n is 0: then more
// bytes are needed, in front of which no byte of src need be kept.
func (d *ChunkDecoder) Next(src []byte) (data []byte, n int, done bool, err *http.Error) {
	return nil, 0, false, nil
}

// Trailers returns the trailer fields once Next was done; nil when none came.
// They are in memory of the decoder's own, and valid until Reset.
func (d *ChunkDecoder) Trailers() *http.Fields { return nil }
