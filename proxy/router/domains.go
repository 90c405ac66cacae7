// SPDX-License-Identifier: Apache-2.0

package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxDomain bounds a domain of a virtual host: the 253 octets of a host name
// with some room for brackets and a port.
const maxDomain = 264

// DomainError tells which domain of a virtual host can't be used.
type DomainError struct {
	Index  int // in the list given to Builder.Add
	Domain string
	Reason string
}

// Error names the domain.
func (e *DomainError) Error() string { return fmt.Sprintf("domain %q %s", e.Domain, e.Reason) }

// domainIndex finds a virtual host by name in Envoy's order: the exact name,
// the longest "*.suffix", the longest "prefix.*", and "*". Immutable once
// sealed.
type domainIndex struct {
	exact    map[string]*VirtualHost
	suffixes wildcards
	prefixes wildcards
	rest     *VirtualHost // under "*"
	only     bool         // there is nothing but rest
}

// wildcards finds the longest wildcard that a name has. Names are without
// their star and in lower case.
type wildcards struct {
	byName  map[string]*VirtualHost
	lengths []int // of the names, each once, descending
}

func (d *domainIndex) add(domain string, vh *VirtualHost) error {
	if len(domain) > maxDomain {
		return fmt.Errorf("is longer than %d octets", maxDomain)
	}
	for i := range len(domain) {
		if c := domain[i]; c <= ' ' || c == 0x7f {
			return fmt.Errorf("holds the character %q", rune(c))
		}
	}
	name := string(lowerInto(make([]byte, len(domain)), []byte(domain)))
	taken := false
	switch {
	case name == "*":
		taken = d.rest != nil
		d.rest = vh
	case strings.HasPrefix(name, "*"):
		taken = d.suffixes.add(name[1:], vh)
	case strings.HasSuffix(name, "*"):
		taken = d.prefixes.add(name[:len(name)-1], vh)
	default:
		if d.exact == nil {
			d.exact = map[string]*VirtualHost{}
		}
		taken = d.exact[name] != nil
		d.exact[name] = vh
	}
	if taken {
		return errors.New("is that of another virtual host, or listed twice")
	}
	return nil
}

func (w *wildcards) add(name string, vh *VirtualHost) (taken bool) {
	if w.byName == nil {
		w.byName = map[string]*VirtualHost{}
	}
	taken = w.byName[name] != nil
	w.byName[name] = vh
	if !slices.Contains(w.lengths, len(name)) {
		w.lengths = append(w.lengths, len(name))
	}
	return taken
}

func (d *domainIndex) seal() {
	for _, w := range []*wildcards{&d.suffixes, &d.prefixes} {
		slices.SortFunc(w.lengths, func(a, b int) int { return b - a })
		w.lengths = slices.Clip(w.lengths)
	}
	d.only = d.exact == nil && d.suffixes.byName == nil && d.prefixes.byName == nil
}

// find returns the virtual host of a name in any case, nil if there is none.
func (d *domainIndex) find(host []byte) *VirtualHost {
	if d.only {
		return d.rest
	}
	if len(host) > shortHost {
		return d.findLong(host)
	}
	var buf [shortHost]byte
	low := lowerInto(buf[:], host)
	return d.lookup(low, low)
}

// shortHost is the length up to which a name needs little of the stack.
const shortHost = 64

// findLong is find for any length. Of a name longer than every domain only the
// two ends can matter.
func (d *domainIndex) findLong(host []byte) *VirtualHost {
	var head, tail [maxDomain + 1]byte
	n := min(len(host), len(head))
	return d.lookup(lowerInto(head[:], host[:n]), lowerInto(tail[:], host[len(host)-n:]))
}

// lookup finds a name by its two ends in lower case, which are the same unless
// it is too long to be that of a domain.
func (d *domainIndex) lookup(head, tail []byte) *VirtualHost {
	if vh := d.exact[string(head)]; vh != nil {
		return vh
	}
	// A star stands for at least one character.
	for _, n := range d.suffixes.lengths {
		if n < len(tail) {
			if vh := d.suffixes.byName[string(tail[len(tail)-n:])]; vh != nil {
				return vh
			}
		}
	}
	for _, n := range d.prefixes.lengths {
		if n < len(head) {
			if vh := d.prefixes.byName[string(head[:n])]; vh != nil {
				return vh
			}
		}
	}
	return d.rest
}

// lowerInto writes src with ASCII letters in lower case into dst, eight octets
// at a time.
func lowerInto(dst, src []byte) []byte {
	i := 0
	for ; i+8 <= len(src); i += 8 {
		binary.LittleEndian.PutUint64(dst[i:], lowerWord(binary.LittleEndian.Uint64(src[i:])))
	}
	for ; i < len(src); i++ {
		c := src[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst[i] = c
	}
	return dst[:len(src)]
}

// lowerWord puts the ASCII letters among eight octets in lower case: adding to
// their low seven bits carries into the top one for all from 'A', and for all
// beyond 'Z'; where only the first does, bit 0x20 is set.
func lowerWord(w uint64) uint64 {
	const ones = 0x0101010101010101
	low := w & (0x7f * ones)
	upper := ((low + (0x80-'A')*ones) ^ (low + (0x7f-'Z')*ones)) & ^w & (0x80 * ones)
	return w | upper>>2
}
