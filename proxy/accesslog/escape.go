// SPDX-License-Identifier: Apache-2.0

package accesslog

import "unicode/utf8"

// encoding is how values are made safe to stand in a line.
type encoding uint8

const (
	// asText writes controls, DEL, quotes and backslashes as \xHH; all else,
	// 8-bit octets included, as it is.
	asText encoding = iota
	// asJSON writes what may stand in a JSON string. Controls, quotes and
	// backslashes are \u00HH, as in Envoy. A value that is not UTF-8 is taken
	// for Latin-1, so that no octet of it is lost.
	asJSON
	// asIs changes nothing: it isn't for a line.
	asIs
)

const hexDigits = "0123456789abcdef"

// unsafe tells which octets are escaped in both encodings. Read-only.
var unsafe = func() (t [256]bool) {
	for c := range 0x20 {
		t[c] = true
	}
	t[0x7f], t['"'], t['\\'] = true, true, true
	return t
}()

// appendEscaped appends v.
func appendEscaped[T string | []byte](dst []byte, v T, enc encoding) []byte {
	if enc == asIs {
		return append(dst, v...)
	}
	plain := 0
	for plain < len(v) && !unsafe[v[plain]] && (enc == asText || v[plain] < utf8.RuneSelf) {
		plain++
	}
	dst = append(dst, v[:plain]...)
	if plain == len(v) {
		return dst
	}
	latin1 := enc == asJSON && !utf8.ValidString(string(v))
	for i := plain; i < len(v); i++ {
		switch c := v[i]; {
		case enc == asText && unsafe[c]:
			dst = append(dst, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		case unsafe[c], latin1 && c >= utf8.RuneSelf:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
