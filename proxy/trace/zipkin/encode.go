// SPDX-License-Identifier: Apache-2.0

package zipkin

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"unicode/utf8"

	"pillion/proxy/trace"
)

// appendSpan appends a span as an object of Zipkin's JSON, version 2
// (https://zipkin.io/zipkin-api/), and a comma. endpoint is the beginning of its
// localEndpoint.
func appendSpan(dst []byte, s *trace.Span, endpoint string) []byte {
	id := s.TraceID[:]
	if [8]byte(id[:8]) == [8]byte{} {
		id = id[8:] // of 64 bits
	}
	dst = append(hex.AppendEncode(append(dst, `{"traceId":"`...), id), `","id":"`...)
	dst = append(hex.AppendEncode(dst, s.ID[:]), '"')
	if s.Parent.IsValid() {
		dst = append(hex.AppendEncode(append(dst, `,"parentId":"`...), s.Parent[:]), '"')
	}
	if s.Kind == trace.Client {
		dst = append(dst, `,"kind":"CLIENT"`...)
	} else {
		dst = append(dst, `,"kind":"SERVER"`...)
	}
	dst = appendText(append(dst, `,"name":`...), s.Name)
	// Microseconds, of which a span has one at least.
	dst = strconv.AppendInt(append(dst, `,"timestamp":`...), s.Start/1000, 10)
	dst = strconv.AppendInt(append(dst, `,"duration":`...), max(1, (s.End-s.Start)/1000), 10)
	dst = appendEndpoint(append(dst, endpoint...), s.Local)
	dst = appendTags(dst, s.Attributes)
	for i := range s.Events {
		if i == 0 {
			dst = append(dst, `,"annotations":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(append(dst, `{"timestamp":`...), s.Events[i].At/1000, 10)
		dst = append(appendText(append(dst, `,"value":`...), s.Events[i].Name), '}')
	}
	if len(s.Events) > 0 {
		dst = append(dst, ']')
	}
	if s.Shared {
		dst = append(dst, `,"shared":true`...)
	}
	return append(dst, '}', ',')
}

// appendTags appends the attributes that have a value.
func appendTags(dst []byte, attributes []trace.Attribute) []byte {
	between := `,"tags":{`
	for i := range attributes {
		a := &attributes[i]
		if len(a.Value) == 0 {
			continue
		}
		dst = appendText(append(dst, between...), a.Key)
		dst = appendText(append(dst, ':'), a.Value)
		between = ","
	}
	if between == "," {
		dst = append(dst, '}')
	}
	return dst
}

// endpointOf is the beginning of localEndpoint for a service.
func endpointOf(service string) string {
	return string(appendText([]byte(`,"localEndpoint":{"serviceName":`), service))
}

// appendEndpoint ends localEndpoint with an address, ip:port.
func appendEndpoint(dst []byte, local string) []byte {
	if a, err := netip.ParseAddrPort(local); err == nil {
		ip := a.Addr().Unmap()
		if ip.Is4() {
			dst = append(dst, `,"ipv4":"`...)
		} else {
			dst = append(dst, `,"ipv6":"`...)
		}
		dst = ip.WithZone("").AppendTo(dst)
		dst = strconv.AppendUint(append(dst, `","port":`...), uint64(a.Port()), 10)
	}
	return append(dst, '}')
}

// appendText appends a string of JSON. What isn't UTF-8 becomes U+FFFD.
func appendText[T string | []byte](dst []byte, v T) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(v); {
		c := v[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
			i++
		case c < 0x20 || c == 0x7f:
			const digits = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			i++
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			i++
		default:
			n := runeLength(v[i:])
			if n == 0 {
				dst, n = append(dst, "\uFFFD"...), 1
			} else {
				dst = append(dst, v[i:i+n]...)
			}
			i += n
		}
	}
	return append(dst, '"')
}

// runeLength is the length of the character that v begins with, 0 if it is none.
func runeLength[T string | []byte](v T) int {
	var first [utf8.UTFMax]byte
	r, n := utf8.DecodeRune(first[:copy(first[:], v)])
	if r == utf8.RuneError && n <= 1 {
		return 0
	}
	return n
}
