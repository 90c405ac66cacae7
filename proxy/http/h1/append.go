// SPDX-License-Identifier: Apache-2.0

package h1

import "pillion/proxy/http"

// AppendRequest appends the head of a request to an HTTP/1.1 server. The
// lines of h.Fields keep order and case; Host comes where it stood, with
// h.Authority. The framing lines are made from f alone, in the places of those
// in Fields; Connection and Upgrade from persist and h.Upgrade alone.
func AppendRequest(dst []byte, h *http.RequestHead, f http.Framing, persist Persist) []byte {
	return dst
}

// AppendResponse appends the head of a response, interim ones included; see
// AppendRequest. A framing of BodyNone says that nothing follows whatever the
// fields tell (HEAD, 1xx, 204, 304); an empty body is BodyLength 0.
func AppendResponse(dst []byte, h *http.ResponseHead, f http.Framing, persist Persist) []byte {
	return dst
}

// AppendContinue appends "100 Continue".
func AppendContinue(dst []byte) []byte { return dst }

// AppendChunkHeader appends the line that opens a chunk of n > 0 octets. The
// octets and AppendChunkEnd follow.
func AppendChunkHeader(dst []byte, n int) []byte { return dst }

// AppendChunkEnd appends what ends a chunk.
func AppendChunkEnd(dst []byte) []byte { return dst }

// AppendLastChunk appends the end of a chunked body with its trailer fields,
// which may be nil.
func AppendLastChunk(dst []byte, trailers *http.Fields) []byte { return dst }
