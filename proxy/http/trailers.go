// SPDX-License-Identifier: Apache-2.0

package http

// forbiddenTrailers are the names, without a number, of fields that must be
// known before the content, or that grant something (RFC 9110 section 6.5.1).
// Read-only.
var forbiddenTrailers = [...]string{
	"age", "cache-control", "content-disposition", "content-encoding", "content-range",
	"expires", "forwarded", "http2-settings", "if-match", "if-modified-since",
	"if-none-match", "if-range", "if-unmodified-since", "max-forwards", "pragma",
	"range", "set-cookie", "warning", "www-authenticate", "x-real-ip",
}

// AllowedTrailer reports whether a field may pass in a trailer section. What
// may not is dropped: a recipient that merges trailers into the head would
// take it for framing, routing, identity or credentials.
func AllowedTrailer(fl *Field) bool {
	switch fl.ID {
	case HeaderOther:
		if hasPrefixFold(fl.Name, "x-forwarded-") || hasPrefixFold(fl.Name, "x-envoy-") {
			return false
		}
		for _, name := range forbiddenTrailers {
			if EqualFoldString(fl.Name, name) {
				return false
			}
		}
		return true
	case HeaderGRPCStatus, HeaderGRPCMessage, HeaderServer:
		return true
	}
	// Every other name with a number is one that the proxy itself acts on.
	return false
}

func hasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && EqualFoldString(b[:len(prefix)], prefix)
}
