// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"strconv"
	"strings"
)

// The functions below say what is wrong with a name, as the end of a sentence that the
// name begins; an empty result means that nothing is.

// badLabel checks a DNS label as Istio does: RFC 1123, in letters of either case.
func badLabel(s string) string {
	if len(s) == 0 || len(s) > 63 || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return "isn't a DNS label (1 to 63 letters, digits and inner dashes)"
	}
	for i := range len(s) {
		if !alnum(s[i]) && s[i] != '-' {
			return "isn't a DNS label (1 to 63 letters, digits and inner dashes)"
		}
	}
	return ""
}

// badSubdomain checks the name of a Kubernetes object.
func badSubdomain(s string) string {
	const reason = "isn't a name that Kubernetes takes (at most 253 lower-case letters, digits, dashes and dots)"
	if len(s) > 253 || strings.ToLower(s) != s {
		return reason
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || !alnum(label[0]) || !alnum(label[len(label)-1]) {
			return reason
		}
		for i := range len(label) {
			if !alnum(label[i]) && label[i] != '-' {
				return reason
			}
		}
	}
	return ""
}

// badFQDN checks a host's name; a trailing dot is fine, short names too.
func badFQDN(s string) string {
	switch {
	case s == "":
		return "isn't a host name: it is empty"
	case len(s) > 255:
		return "isn't a host name: it is longer than 255 letters"
	}
	s = strings.TrimSuffix(s, ".")
	if last := s[strings.LastIndexByte(s, '.')+1:]; last != "" && strings.Trim(last, "0123456789") == "" {
		return "isn't a host name: its last label is a number"
	}
	for label := range strings.SplitSeq(s, ".") {
		if badLabel(label) != "" {
			return "isn't a host name: the label " + strconv.Quote(clip(label)) + " is wrong"
		}
	}
	return ""
}

// badHost checks a host's name that may begin with a wildcard: "*", "*.example.com",
// "*-web.example.com".
func badHost(s string) string {
	first, rest, more := strings.Cut(s, ".")
	if !strings.HasPrefix(first, "*") {
		return badFQDN(s)
	}
	if len(s) > 255 {
		return "isn't a host name: it is longer than 255 letters"
	}
	if bare := strings.TrimPrefix(first[1:], "-"); bare != "" && badLabel(bare) != "" || first == "*-" {
		return "isn't a host name: the label " + strconv.Quote(clip(first)) + " is wrong"
	}
	if more {
		return badFQDN(rest)
	}
	return ""
}

// partialWildcard says what is wrong with "*foo.com": it reads like "*.foo.com" and isn't.
func partialWildcard(s string) string {
	if strings.HasPrefix(s, "*") && s != "*" && !strings.HasPrefix(s, "*.") {
		return "has a wildcard that isn't a label of its own"
	}
	return ""
}

// hostsOverlap reports whether two host names, wildcards or not, have a name in common
// or cover one another.
func hostsOverlap(a, b string) bool {
	aWild, bWild := strings.HasPrefix(a, "*"), strings.HasPrefix(b, "*")
	switch {
	case aWild && bWild:
		return strings.HasSuffix(a[1:], b[1:]) || strings.HasSuffix(b[1:], a[1:])
	case aWild:
		return strings.HasSuffix(b, a[1:])
	case bWild:
		return strings.HasSuffix(a, b[1:])
	}
	return a == b
}

// hostWithin reports whether every name of a is one of b.
func hostWithin(a, b string) bool {
	if strings.HasPrefix(b, "*") {
		return len(a) >= len(b) && strings.HasSuffix(strings.TrimPrefix(a, "*"), b[1:])
	}
	return a == b
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// badSubnet checks an address or a CIDR block.
func badSubnet(s string) string {
	if strings.Contains(s, "/") {
		if _, err := netip.ParsePrefix(s); err != nil {
			return "isn't a CIDR block"
		}
		return ""
	}
	if !isIP(s) {
		return "is neither an IP address nor a CIDR block"
	}
	return ""
}

// unixPrefix begins the address of a Unix domain socket.
const unixPrefix = "unix://"

// badUnixPath checks what follows unixPrefix.
func badUnixPath(path string) string {
	if strings.HasPrefix(path, "@") {
		return "" // Linux's abstract namespace
	}
	if !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") {
		return "isn't the absolute path of a socket"
	}
	return ""
}

// badLabelKey checks the key of a Kubernetes label: an optional DNS prefix and a name.
func badLabelKey(key string) string {
	name := key
	if prefix, rest, ok := strings.Cut(key, "/"); ok {
		if len(prefix) > 253 || badFQDN(prefix) != "" {
			return "isn't a label's key: the part before the slash isn't a DNS name"
		}
		name = rest
	}
	if name == "" || badLabelValue(name) != "" {
		return "isn't a label's key (1 to 63 letters, digits and inner dashes, dots, underscores)"
	}
	return ""
}

// badLabelValue checks the value of a Kubernetes label, which may be empty.
func badLabelValue(v string) string {
	const reason = "isn't a label's value (at most 63 letters, digits and inner dashes, dots, underscores)"
	if v == "" {
		return ""
	}
	if len(v) > 63 || !alnum(v[0]) || !alnum(v[len(v)-1]) {
		return reason
	}
	for i := range len(v) {
		if !alnum(v[i]) && strings.IndexByte("-_.", v[i]) < 0 {
			return reason
		}
	}
	return ""
}

// badHeaderName checks a field name: a token of RFC 9110 §5.6.2.
func badHeaderName(name string) string {
	if name == "" {
		return "isn't a header's name: it is empty"
	}
	for i := range len(name) {
		if c := name[i]; !alnum(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return "isn't a header's name: it has the character " + strconv.QuoteRuneToASCII(rune(c))
		}
	}
	return ""
}

// badHeaderValue checks a header's value in Envoy's form, in which %NAME% and
// %NAME(arguments)% stand for properties of the request and %% for a percent sign.
// https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers
func badHeaderValue(v string) string {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return "isn't a header's value: it has a control character"
		}
	}
	for {
		_, rest, ok := strings.Cut(v, "%")
		if !ok {
			return ""
		}
		if strings.HasPrefix(rest, "%") {
			v = rest[1:]
			continue
		}
		end := commandEnd(rest)
		if end < 0 {
			return "isn't a header's value: a % begins no %COMMAND%; write %% for a percent sign"
		}
		v = rest[end:]
	}
}

// commandEnd returns the offset behind the % that ends a command, -1 when nothing does.
func commandEnd(s string) int {
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case depth > 0 && c == '"':
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == '%' && depth <= 0:
			if i == 0 {
				return -1
			}
			return i + 1
		}
	}
	return -1
}
