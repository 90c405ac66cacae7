// SPDX-License-Identifier: Apache-2.0

package h2

// nameOctets are those that may stand in the name of a field: those of a
// token, in lower case (RFC 9113 section 8.2.1, RFC 9110 section 5.6.2). Read-only.
var nameOctets = octets("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")

// methodOctets are those of a token; pathOctets those of a request target,
// without '#', which is never sent (RFC 9113 section 8.3.1); authorityOctets
// those of a host with a port.
var (
	methodOctets    = octets("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	authorityOctets = octets("-._~!$&'()*+;=:[]0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	pathOctets      = visible('#')
)

func octets(all string) (t [256]bool) {
	for _, c := range []byte(all) {
		t[c] = true
	}
	return t
}

func visible(but byte) (t [256]bool) {
	for c := 0x21; c <= 0x7e; c++ {
		t[c] = byte(c) != but
	}
	return t
}

func only(b []byte, t *[256]bool) bool {
	for _, c := range b {
		if !t[c] {
			return false
		}
	}
	return true
}

func validName(name []byte, p pseudo) bool {
	if p != regular {
		return true // judged by its own rules
	}
	return len(name) > 0 && only(name, &nameOctets)
}

// validValue holds RFC 9113 section 8.2.1, and refuses the other controls as
// HTTP/1 does: a value may go out on an HTTP/1 connection.
func validValue(v []byte) bool {
	if len(v) == 0 {
		return true
	}
	if a, z := v[0], v[len(v)-1]; a == ' ' || a == '\t' || z == ' ' || z == '\t' {
		return false
	}
	for _, c := range v {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
