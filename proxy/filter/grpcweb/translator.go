// SPDX-License-Identifier: Apache-2.0

package grpcweb

import (
	"bytes"
	"encoding/binary"

	"pillion/proxy/http"
)

var (
	errBase64Data = &http.Error{Side: http.SideDownstream, Kind: http.KindPayload, Status: 400, Close: true,
		Detail: "grpc_base_64_decode_failed", Body: "Bad gRPC-web request, invalid base64 data."}
	errBase64Size = &http.Error{Side: http.SideDownstream, Kind: http.KindPayload, Status: 400, Close: true,
		Detail: "grpc_base_64_decode_failed_bad_size", Body: "Bad gRPC-web request, invalid base64 data."}
)

// maxMessage bounds how much of the body of a failure that isn't gRPC's is
// made its grpc-message (Envoy: MAX_BUFFERED_PLAINTEXT_LENGTH).
const maxMessage = 16 << 10

// prefixLen is the length of what stands before a message, and trailerFlag is
// the flag there of the frame that holds the trailers.
const (
	prefixLen   = 5
	trailerFlag = 0x80
)

// Translator turns the bodies of one exchange from gRPC-Web into gRPC and
// back. What it returns is valid until the same method is called again. The
// methods for the request and those for the response may be called at once.
type Translator struct {
	ex *http.Exchange // owned by whoever owns the response

	// Of the request.
	decoder decoder
	decoded []byte

	// Of the response.
	encoder encoder
	frame   frame
	encoded []byte
	// opaque says that the response isn't gRPC: its body becomes a message.
	opaque  bool
	message []byte
}

// NewTranslator returns a translator for an exchange that Filter has marked.
func NewTranslator(ex *http.Exchange) *Translator { return &Translator{ex: ex} }

// Request translates a piece of the request's body.
func (t *Translator) Request(p []byte) ([]byte, *http.Error) {
	if !t.ex.GRPCWeb.TextRequest {
		return p, nil
	}
	var ok bool
	if t.decoded, ok = t.decoder.decode(t.decoded[:0], p); !ok {
		return nil, errBase64Data
	}
	return t.decoded, nil
}

// RequestEnd is to be asked whether the request's body may end here.
func (t *Translator) RequestEnd() *http.Error {
	if !t.decoder.ended() {
		return errBase64Size
	}
	return nil
}

// ResponseHead translates a response's head. hold asks that it is kept until
// the body has come, which isn't gRPC: EndOpaque completes it then.
func (t *Translator) ResponseHead(h *http.ResponseHead, end bool) (hold bool) {
	t.opaque = !h.IsGRPC(end) && !isWeb(h)
	t.message = t.message[:0]
	h.Fields.DelID(http.HeaderContentLength)
	if t.ex.GRPCWeb.TextResponse {
		h.Fields.SetID(http.HeaderContentType, valueText)
	} else {
		h.Fields.SetID(http.HeaderContentType, valueWeb)
	}
	if end {
		h.Framing = http.Framing{Kind: http.BodyLength}
		return false
	}
	h.Framing = http.Framing{Kind: http.BodyStream}
	return t.opaque
}

// isWeb reports whether a service speaks gRPC-Web by itself.
func isWeb(h *http.ResponseHead) bool {
	v, _ := h.Fields.Get(http.HeaderContentType)
	v, _, _ = bytes.Cut(v, []byte(";"))
	v = bytes.TrimRight(v, " \t")
	return h.Status == 200 && (http.EqualFoldString(v, typeWeb) || http.EqualFoldString(v, typeWebProto))
}

// Response translates a piece of the response's body.
func (t *Translator) Response(p []byte) []byte {
	switch {
	case t.opaque:
		t.message = append(t.message, p[:min(len(p), maxMessage-len(t.message))]...)
		return nil
	case !t.ex.GRPCWeb.TextResponse:
		return p
	}
	t.encoded = t.encoded[:0]
	for len(p) > 0 {
		n, whole := t.frame.next(p)
		t.encoded = t.encoder.encode(t.encoded, p[:n])
		if p = p[n:]; whole {
			t.encoded = t.encoder.end(t.encoded)
		}
	}
	return t.encoded
}

// ResponseEnd returns what ends a body that has no trailers.
func (t *Translator) ResponseEnd() []byte {
	t.encoded = t.encoder.end(t.encoded[:0])
	return t.encoded
}

// Trailers returns the frame that stands for the trailers and ends the body.
func (t *Translator) Trailers(f *http.Fields) []byte {
	var b []byte
	b = append(b, trailerFlag, 0, 0, 0, 0)
	for _, fl := range f.All() {
		b = append(b, bytes.ToLower(fl.Name)...)
		b = append(append(append(b, ':'), fl.Value...), "\r\n"...)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-prefixLen))
	if !t.ex.GRPCWeb.TextResponse {
		return b
	}
	t.encoded = t.encoder.end(t.encoded[:0]) // of a message that broke off
	t.encoded = t.encoder.encode(t.encoded, b)
	t.encoded = t.encoder.end(t.encoded)
	return t.encoded
}

// EndOpaque completes a head that was held: the status is what gRPC makes of
// HTTP's, or what a reply of our own has, and the body is the message.
func (t *Translator) EndOpaque(h *http.ResponseHead) {
	code := http.GRPCOfHTTP(h.Status)
	if err := t.ex.Err; err != nil {
		code = err.GRPCStatus(h.Status)
	}
	t.opaque = false
	h.Fields.SetID(http.HeaderGRPCMessage, http.AppendGRPCMessage(nil, string(t.message)))
	h.Fields.SetID(http.HeaderGRPCStatus, http.AppendGRPCStatus(nil, code))
	h.Fields.SetID(http.HeaderContentLength, valueZero)
	h.Framing = http.Framing{Kind: http.BodyLength}
}

// frame follows the messages of a body. The zero value is at the start of one.
type frame struct {
	pos  int    // octets of the prefix that have come
	left uint32 // of the length as far as it has come, then of the message
}

// next returns how much of p belongs to the current message and its prefix,
// and whether that ends it. p is not empty.
func (f *frame) next(p []byte) (n int, whole bool) {
	for n < len(p) && f.pos < prefixLen {
		if f.pos > 0 {
			f.left = f.left<<8 | uint32(p[n])
		}
		n++
		f.pos++
	}
	if f.pos < prefixLen {
		return n, false
	}
	take := min(uint64(len(p)-n), uint64(f.left))
	f.left -= uint32(take)
	n += int(take)
	if f.left > 0 {
		return n, false
	}
	f.pos = 0
	return n, true
}
