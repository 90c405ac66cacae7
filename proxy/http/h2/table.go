// SPDX-License-Identifier: Apache-2.0

package h2

import "pillion/proxy/http"

// pseudo tells the pseudo-header fields from the others (RFC 9113 section 8.3).
type pseudo uint8

const (
	regular pseudo = iota
	pseudoAuthority
	pseudoMethod
	pseudoPath
	pseudoScheme
	pseudoStatus
	pseudoProtocol // RFC 8441 section 4
	pseudoUnknown
)

func pseudoOf(name []byte) pseudo {
	if len(name) == 0 || name[0] != ':' {
		return regular
	}
	switch string(name) {
	case ":authority":
		return pseudoAuthority
	case ":method":
		return pseudoMethod
	case ":path":
		return pseudoPath
	case ":scheme":
		return pseudoScheme
	case ":status":
		return pseudoStatus
	case ":protocol":
		return pseudoProtocol
	}
	return pseudoUnknown
}

// entry is one field of a table. Immutable: heads may point into it for as
// long as they like.
type entry struct {
	http.Field
	pseudo pseudo
	// bad is set when the name or the value breaks RFC 9113 section 8.2.1.
	bad bool
}

// size is the entry's share of a table (RFC 7541 section 4.1).
func (e *entry) size() uint32 { return fieldSize(e.Name, e.Value) }

func fieldSize(name, value []byte) uint32 { return uint32(len(name) + len(value) + fieldOverhead) }

const fieldOverhead = 32

// describe fills in what is derived from name and value.
func (e *entry) describe() {
	e.pseudo = pseudoOf(e.Name)
	if e.pseudo == regular {
		e.ID = http.LookupHeader(e.Name)
	}
	e.bad = !validName(e.Name, e.pseudo) || !validValue(e.Value)
}

// staticLen is the number of entries of the static table.
const staticLen = 61

// static is the table of RFC 7541 appendix A; index 0 is not used. Read-only.
var static = makeStatic()

func makeStatic() (t [staticLen + 1]entry) {
	pairs := [...][2]string{
		{":authority", ""}, {":method", "GET"}, {":method", "POST"}, {":path", "/"}, {":path", "/index.html"},
		{":scheme", "http"}, {":scheme", "https"}, {":status", "200"}, {":status", "204"}, {":status", "206"},
		{":status", "304"}, {":status", "400"}, {":status", "404"}, {":status", "500"}, {"accept-charset", ""},
		{"accept-encoding", "gzip, deflate"}, {"accept-language", ""}, {"accept-ranges", ""}, {"accept", ""},
		{"access-control-allow-origin", ""}, {"age", ""}, {"allow", ""}, {"authorization", ""}, {"cache-control", ""},
		{"content-disposition", ""}, {"content-encoding", ""}, {"content-language", ""}, {"content-length", ""},
		{"content-location", ""}, {"content-range", ""}, {"content-type", ""}, {"cookie", ""}, {"date", ""},
		{"etag", ""}, {"expect", ""}, {"expires", ""}, {"from", ""}, {"host", ""}, {"if-match", ""},
		{"if-modified-since", ""}, {"if-none-match", ""}, {"if-range", ""}, {"if-unmodified-since", ""},
		{"last-modified", ""}, {"link", ""}, {"location", ""}, {"max-forwards", ""}, {"proxy-authenticate", ""},
		{"proxy-authorization", ""}, {"range", ""}, {"referer", ""}, {"refresh", ""}, {"retry-after", ""},
		{"server", ""}, {"set-cookie", ""}, {"strict-transport-security", ""}, {"transfer-encoding", ""},
		{"user-agent", ""}, {"vary", ""}, {"via", ""}, {"www-authenticate", ""},
	}
	for i, p := range pairs {
		t[i+1].Name, t[i+1].Value = []byte(p[0]), []byte(p[1])
		t[i+1].describe()
	}
	return t
}

// Indices of the static table that the encoder names.
const (
	staticAuthority = 1
	staticGET       = 2
	staticPOST      = 3
	staticSlash     = 4
	staticHTTP      = 6
	staticHTTPS     = 7
	staticStatus200 = 8
)

// table is a dynamic table (RFC 7541 section 2.3.2): a ring of entries, of
// which the newest has the lowest index.
type table struct {
	ring  []entry  // its length is a power of two
	hash  []uint32 // beside ring; nil for a decoder, which looks nothing up
	first int      // place of the oldest entry
	n     int
	size  uint32
	max   uint32
}

// at returns entry i, counted from 1, the newest first.
func (t *table) at(i int) *entry { return &t.ring[(t.first+t.n-i)&(len(t.ring)-1)] }

// setMax changes the size limit and evicts what is over it.
func (t *table) setMax(n uint32) {
	t.max = n
	t.evict(0)
}

// evict makes room for an entry of size need, which may be more than the
// table can hold: it is then left empty (RFC 7541 section 4.4).
func (t *table) evict(need uint32) {
	for t.n > 0 && t.size+need > t.max {
		old := &t.ring[t.first]
		t.size -= old.size()
		*old = entry{}
		t.first = (t.first + 1) & (len(t.ring) - 1)
		t.n--
	}
}

// add inserts an entry and reports whether it fits.
func (t *table) add(e entry, hash uint32) bool {
	need := e.size()
	t.evict(need)
	if need > t.max {
		return false
	}
	if t.n == len(t.ring) {
		t.grow()
	}
	place := (t.first + t.n) & (len(t.ring) - 1)
	t.ring[place] = e
	if t.hash != nil {
		t.hash[place] = hash
	}
	t.n++
	t.size += need
	return true
}

func (t *table) grow() {
	// Idle connections keep their tables, so they begin small.
	ring := make([]entry, max(4, 2*len(t.ring)))
	var hash []uint32
	if t.hash != nil {
		hash = make([]uint32, len(ring))
	}
	for i := range t.n {
		from := (t.first + i) & (len(t.ring) - 1)
		ring[i] = t.ring[from]
		if hash != nil {
			hash[i] = t.hash[from]
		}
	}
	t.ring, t.hash, t.first = ring, hash, 0
}
