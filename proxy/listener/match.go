// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Match says which connections a filter chain is for. A part that is empty
// holds for all of them.
type Match struct {
	DestinationPort      uint16
	DestinationPrefixes  []netip.Prefix
	ServerNames          []string // in lower case; "*.suffix" for all below
	TransportProtocol    string
	ApplicationProtocols []string
	SourcePrefixes       []netip.Prefix
	SourcePorts          []uint16
}

// Facts are what a chain is chosen by.
type Facts struct {
	Destination, Source  netip.AddrPort
	ServerName           string
	TransportProtocol    string
	ApplicationProtocols []string
}

// None is the result for a connection that no chain is for.
const None = -1

// Matcher finds the filter chain of a connection. As in Envoy
// (FilterChainManagerImpl::findFilterChain) the parts of a Match are looked at
// one after the other, the most specific value wins at each, and what was
// decided at one part isn't taken back when a later one finds nothing.
// Immutable.
type Matcher struct {
	root stage
	// needsTLS and needsHTTP tell what has to be known of the first bytes.
	needsTLS, needsHTTP bool
}

// NewMatcher compiles the matches of chains, which Find knows by their index.
// Two chains for the same connections are an error.
func NewMatcher(chains []Match) (*Matcher, error) {
	m := &Matcher{}
	for i := range chains {
		c := &chains[i]
		if err := m.add(c, i); err != nil {
			return nil, err
		}
		m.needsTLS = m.needsTLS || len(c.ServerNames)+len(c.ApplicationProtocols) > 0 || c.TransportProtocol != ""
		m.needsHTTP = m.needsHTTP || len(c.ApplicationProtocols) > 0
	}
	return m, nil
}

// stage is one part of all matches. What follows a value is either another
// stage or, after the last part, a chain.
type stage struct {
	values map[string]*stage       // by what the part asks for; "" for all
	ranges map[netip.Prefix]*stage // instead of values, of a part of addresses
	bits   []int                   // the lengths in ranges, longest first
	chain  int                     // after the last part
}

// add enters every combination of a chain's values.
func (m *Matcher) add(c *Match, index int) error {
	at := []*stage{&m.root}
	at = descend(at, portKeys(c.DestinationPort))
	at = descendRanges(at, c.DestinationPrefixes)
	names, err := nameKeys(c.ServerNames)
	if err != nil {
		return err
	}
	at = descend(at, names)
	at = descend(at, []string{c.TransportProtocol})
	at = descend(at, orAll(c.ApplicationProtocols))
	at = descendRanges(at, c.SourcePrefixes)
	at = descend(at, portKeys(c.SourcePorts...))
	for _, s := range at {
		if s.chain != 0 {
			if s.chain-1 == index {
				continue // a value that stands twice in one match
			}
			return fmt.Errorf("filter_chains[%d]: has the same filter_chain_match as filter_chains[%d]", index, s.chain-1)
		}
		s.chain = index + 1
	}
	return nil
}

func portKeys(ports ...uint16) (keys []string) {
	for _, p := range ports {
		if p != 0 {
			keys = append(keys, portKey(p))
		}
	}
	return orAll(keys)
}

func portKey(p uint16) string { return string([]byte{byte(p >> 8), byte(p)}) }

func orAll(keys []string) []string {
	if len(keys) == 0 {
		return []string{""}
	}
	return keys
}

// nameKeys returns "*.suffix" as ".suffix".
func nameKeys(names []string) ([]string, error) {
	keys := make([]string, 0, len(names))
	for _, n := range names {
		key := strings.ToLower(strings.TrimPrefix(n, "*"))
		if strings.Contains(key, "*") || key == "" || key[0] != '.' && n[0] == '*' {
			return nil, fmt.Errorf("server_names: %q: only a whole label at the front may be a wildcard", n)
		}
		keys = append(keys, key)
	}
	return orAll(keys), nil
}

func descend(at []*stage, keys []string) (next []*stage) {
	for _, s := range at {
		if s.values == nil {
			s.values = map[string]*stage{}
		}
		for _, k := range keys {
			if s.values[k] == nil {
				s.values[k] = &stage{}
			}
			next = append(next, s.values[k])
		}
	}
	return next
}

func descendRanges(at []*stage, ranges []netip.Prefix) (next []*stage) {
	if len(ranges) == 0 {
		ranges = []netip.Prefix{{}} // that of every address
	}
	for _, s := range at {
		if s.ranges == nil {
			s.ranges = map[netip.Prefix]*stage{}
		}
		for _, r := range ranges {
			r = r.Masked()
			if s.ranges[r] == nil {
				s.ranges[r] = &stage{}
				if r.IsValid() && !slices.Contains(s.bits, r.Bits()) {
					s.bits = append(s.bits, r.Bits())
					slices.SortFunc(s.bits, func(a, b int) int { return b - a })
				}
			}
			next = append(next, s.ranges[r])
		}
	}
	return next
}

// Find returns the index of the chain for a connection, or None.
func (m *Matcher) Find(f *Facts) int {
	s := m.root.exact(portKey(f.Destination.Port()))
	s = s.inRange(f.Destination.Addr())
	s = s.name(f.ServerName)
	s = s.exact(f.TransportProtocol)
	s = s.oneOf(f.ApplicationProtocols)
	s = s.inRange(f.Source.Addr())
	s = s.exact(portKey(f.Source.Port()))
	if s == nil {
		return None
	}
	return s.chain - 1
}

// exact returns the stage after a value, or that for all values.
func (s *stage) exact(value string) *stage {
	if s == nil {
		return nil
	}
	if next := s.values[value]; next != nil {
		return next
	}
	return s.values[""]
}

func (s *stage) oneOf(values []string) *stage {
	if s == nil {
		return nil
	}
	for _, v := range values {
		if next := s.values[v]; next != nil && v != "" {
			return next
		}
	}
	return s.values[""]
}

// inRange returns the stage after the longest prefix that holds a.
func (s *stage) inRange(a netip.Addr) *stage {
	if s == nil {
		return nil
	}
	a = a.Unmap().WithZone("")
	for _, bits := range s.bits {
		if bits > a.BitLen() {
			continue
		}
		if p, err := a.Prefix(bits); err == nil && s.ranges[p] != nil {
			return s.ranges[p]
		}
	}
	return s.ranges[netip.Prefix{}]
}

// name returns the stage after a server name: its own, that of the longest
// suffix, or that for all.
func (s *stage) name(host string) *stage {
	if s == nil {
		return nil
	}
	if host != "" && host[0] != '.' {
		if next := s.values[host]; next != nil {
			return next
		}
	}
	for rest := host; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			return s.values[""]
		}
		if i > 0 || len(rest) < len(host) {
			if next := s.values[rest[i:]]; next != nil {
				return next
			}
		}
		rest = rest[i+1:]
	}
}
