// SPDX-License-Identifier: Apache-2.0

package h1

import (
	nethttp "net/http"
	"strconv"

	"pillion/proxy/http"
)

// AppendRequest appends the head of a request to an HTTP/1.1 server. The
// lines of h.Fields keep order and case; Host comes where it stood, with
// h.Authority. The framing lines are made from f alone, in the places of those
// in Fields if it has them; Connection and Upgrade likewise from persist and
// h.Upgrade. Values are written as they are: whoever makes one has to see to
// it that it has no control characters, as the parsers do.
func AppendRequest(dst []byte, h *http.RequestHead, f http.Framing, persist Persist) []byte {
	dst = append(dst, h.RawMethod...)
	dst = append(dst, ' ')
	if h.Method == http.MethodConnect {
		dst = append(dst, h.Authority...)
	} else {
		dst = append(dst, h.Path...)
	}
	dst = append(dst, " HTTP/1.1\r\n"...)

	w := writer{framing: f, persist: persist, upgrade: h.Upgrade}
	fields := h.Fields.All()
	at := min(max(h.HostIndex, 0), len(fields))
	dst = w.appendFields(dst, fields[:at])
	if len(h.HostName) > 0 {
		dst = append(dst, h.HostName...)
	} else {
		dst = append(dst, "host"...)
	}
	dst = append(dst, ": "...)
	dst = append(dst, h.Authority...)
	dst = append(dst, "\r\n"...)
	dst = w.appendFields(dst, fields[at:])
	return w.appendEnd(dst)
}

// AppendResponse appends the head of a response, interim ones included; see
// AppendRequest. A framing of BodyNone says that nothing follows whatever the
// fields tell (HEAD, 1xx, 204, 304); an empty body is BodyLength 0.
func AppendResponse(dst []byte, h *http.ResponseHead, f http.Framing, persist Persist) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(h.Status), 10)
	dst = append(dst, ' ')
	if len(h.Reason) > 0 {
		dst = append(dst, h.Reason...)
	} else {
		dst = append(dst, nethttp.StatusText(h.Status)...)
	}
	dst = append(dst, "\r\n"...)

	w := writer{framing: f, persist: persist, upgrade: h.Upgrade}
	w.lengthPasses = f.Kind == http.BodyNone && h.Status >= 200 && h.Status != 204
	dst = w.appendFields(dst, h.Fields.All())
	return w.appendEnd(dst)
}

// writer appends field lines and remembers which of those that it makes
// itself are written.
type writer struct {
	framing http.Framing
	persist Persist
	upgrade []byte // the protocol to switch to, or nil
	// lengthPasses lets the Content-Length of a message without a body
	// through: it tells of the body that HEAD or 304 leaves out.
	lengthPasses bool

	framed, connection, upgraded bool
}

// appendFields appends the lines, those that the codec makes with its values.
func (w *writer) appendFields(dst []byte, fields []http.Field) []byte {
	for i := range fields {
		fl := &fields[i]
		if fl.ID != http.HeaderOther && fl.ID <= lastNoted {
			switch fl.ID {
			case http.HeaderContentLength, http.HeaderTransferEncoding:
				dst = w.appendFraming(dst, fl)
				continue
			case http.HeaderConnection, http.HeaderUpgrade:
				dst = w.appendUpgrade(dst, fl)
				continue
			case http.HeaderHost, http.HeaderKeepAlive, http.HeaderProxyConnection:
				continue
			}
		}
		dst = appendName(dst, fl.Name)
		dst = append(dst, fl.Value...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// appendFraming appends the line that f asks for in the place of fl, if fl is
// of its kind.
func (w *writer) appendFraming(dst []byte, fl *http.Field) []byte {
	if w.framed {
		return dst
	}
	switch {
	case fl.ID == http.HeaderTransferEncoding:
		if w.framing.Kind != http.BodyChunked {
			return dst
		}
		dst = append(appendName(dst, fl.Name), "chunked"...)
	case w.saysLength():
		dst = strconv.AppendInt(appendName(dst, fl.Name), w.framing.Length, 10)
	case w.lengthPasses:
		n, ok := parseLength(fl.Value)
		if !ok {
			return dst
		}
		dst = strconv.AppendInt(appendName(dst, fl.Name), n, 10)
	default:
		return dst
	}
	w.framed = true
	return append(dst, "\r\n"...)
}

func (w *writer) saysLength() bool {
	return w.framing.Kind == http.BodyLength || w.framing.Kind == http.BodyNone && w.framing.Length > 0
}

// appendUpgrade appends the lines of an upgrade in the place of fl.
func (w *writer) appendUpgrade(dst []byte, fl *http.Field) []byte {
	if w.upgrade == nil {
		return dst
	}
	switch {
	case fl.ID == http.HeaderConnection && !w.connection:
		w.connection = true
		dst = append(appendName(dst, fl.Name), "upgrade"...)
	case fl.ID == http.HeaderUpgrade && !w.upgraded:
		w.upgraded = true
		dst = append(appendName(dst, fl.Name), w.upgrade...)
	default:
		return dst
	}
	return append(dst, "\r\n"...)
}

// appendEnd appends the lines that had no place among the fields, and the
// empty line.
func (w *writer) appendEnd(dst []byte) []byte {
	switch {
	case w.upgrade != nil:
		if !w.upgraded {
			dst = append(dst, "upgrade: "...)
			dst = append(dst, w.upgrade...)
			dst = append(dst, "\r\n"...)
		}
		if !w.connection {
			dst = append(dst, "connection: upgrade\r\n"...)
		}
	case w.persist == PersistClose:
		dst = append(dst, "connection: close\r\n"...)
	case w.persist == PersistKeepAlive:
		dst = append(dst, "connection: keep-alive\r\n"...)
	}
	switch {
	case w.framed:
	case w.saysLength():
		dst = append(dst, "content-length: "...)
		dst = strconv.AppendInt(dst, w.framing.Length, 10)
		dst = append(dst, "\r\n"...)
	case w.framing.Kind == http.BodyChunked:
		dst = append(dst, "transfer-encoding: chunked\r\n"...)
	}
	return append(dst, "\r\n"...)
}

func appendName(dst, name []byte) []byte {
	dst = append(dst, name...)
	return append(dst, ": "...)
}

// AppendContinue appends "100 Continue".
func AppendContinue(dst []byte) []byte {
	return append(dst, "HTTP/1.1 100 Continue\r\n\r\n"...)
}

// AppendChunkHeader appends the line that opens a chunk of n > 0 octets. The
// octets and AppendChunkEnd follow.
func AppendChunkHeader(dst []byte, n int) []byte {
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, "\r\n"...)
}

// AppendChunkEnd appends what ends a chunk.
func AppendChunkEnd(dst []byte) []byte { return append(dst, "\r\n"...) }

// AppendLastChunk appends the end of a chunked body with its trailer fields,
// which may be nil. Fields that have no business in trailers are left out.
func AppendLastChunk(dst []byte, trailers *http.Fields) []byte {
	dst = append(dst, "0\r\n"...)
	if trailers != nil {
		for _, fl := range trailers.All() {
			if http.AllowedTrailer(&fl) {
				dst = appendName(dst, fl.Name)
				dst = append(dst, fl.Value...)
				dst = append(dst, "\r\n"...)
			}
		}
	}
	return append(dst, "\r\n"...)
}
