// SPDX-License-Identifier: Apache-2.0

package router

import (
	"bytes"
	"slices"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

// HashKind is what a request's hash is made of.
type HashKind uint8

// The kinds.
const (
	HashHeader HashKind = iota
	HashCookie
	HashSourceIP
	HashQuery
)

// HashPolicy is one contribution to the hash by which ring hash and Maglev
// clusters choose a host. Immutable.
type HashPolicy struct {
	Kind HashKind
	// Header and Rewrite are for HashHeader; Rewrite may be nil.
	Header  filter.HeaderRef
	Rewrite *match.Rewrite
	// Name is that of the cookie or the query parameter.
	Name string
	// Cookie, for HashCookie, makes the proxy give a cookie to clients that
	// come without one; nil doesn't.
	Cookie *AffinityCookie
	// Terminal ends the list if there is a hash by then.
	Terminal bool
}

// AffinityCookie is the cookie that binds a client to a host.
type AffinityCookie struct {
	TTL time.Duration // 0 makes a session cookie
	// Attributes is the part behind the lifetime, such as "; Path=/; HttpOnly".
	Attributes string
}

// Hash returns the hash of a request, and whether it has one. The function is
// xxHash64, as in Envoy, so that equal rings choose equal hosts.
func (r *Route) Hash(ex *http.Exchange) (uint64, bool) {
	if r.More == nil {
		return 0, false
	}
	var hash uint64
	found := false
	for i := range r.More.Hash {
		p := &r.More.Hash[i]
		if h, ok := p.hash(ex); ok {
			// Turning the old value keeps equal policies from cancelling out.
			hash = (hash<<1 | hash>>63) ^ h
			found = true
		}
		if p.Terminal && found {
			break
		}
	}
	return hash, found
}

func (p *HashPolicy) hash(ex *http.Exchange) (uint64, bool) {
	switch p.Kind {
	case HashHeader:
		return p.hashHeader(&ex.Req)
	case HashCookie:
		if v := cookieValue(&ex.Req.Fields, p.Name); len(v) > 0 {
			return xxhash.Sum64(v), true
		}
		if p.Cookie != nil {
			var buf [16]byte
			return xxhash.Sum64(newCookieValue(buf[:0], ex)), true
		}
	case HashSourceIP:
		if ex.Conn != nil {
			host, _ := splitAddress(ex.Conn.Remote)
			return xxhash.Sum64String(host), host != ""
		}
	case HashQuery:
		_, query := match.CutQuery(ex.Req.Path)
		if v, ok := match.QueryValue(query, p.Name); ok {
			return xxhash.Sum64(v), true
		}
	}
	return 0, false
}

// hashHeader hashes all lines of a header, in an order that doesn't depend on
// theirs. One line without a rewrite, the usual case, allocates nothing.
func (p *HashPolicy) hashHeader(h *http.RequestHead) (uint64, bool) {
	first, ok := p.Header.Get(h)
	if !ok {
		return 0, false
	}
	lines := 0
	for i := range h.Fields.All() {
		if p.Header.Is(h.Fields.At(i)) {
			lines++
		}
	}
	if lines <= 1 && p.Rewrite == nil {
		return xxhash.Sum64(first), true
	}
	values := [][]byte{first}
	if lines > 0 {
		values = values[:0]
		for i := range h.Fields.All() {
			if f := h.Fields.At(i); p.Header.Is(f) {
				values = append(values, f.Value)
			}
		}
	}
	if p.Rewrite != nil {
		for i, v := range values {
			values[i] = p.Rewrite.Append(nil, v)
		}
	}
	slices.SortFunc(values, bytes.Compare)
	var hash uint64
	var d xxhash.Digest
	for _, v := range values {
		d.ResetWithSeed(hash)
		_, _ = d.Write(v)
		hash = d.Sum64()
	}
	return hash, true
}

// cookieValue returns the value of a cookie without quotes, nil if it is not
// there (RFC 6265 section 4.2.1).
func cookieValue(fields *http.Fields, name string) []byte {
	for i := range fields.All() {
		f := fields.At(i)
		if f.ID != http.HeaderCookie {
			continue
		}
		for rest := f.Value; len(rest) > 0; {
			pair := rest
			if k := bytes.IndexByte(rest, ';'); k >= 0 {
				pair, rest = rest[:k], rest[k+1:]
			} else {
				rest = nil
			}
			pair = bytes.TrimLeft(pair, " \t")
			if len(pair) <= len(name) || pair[len(name)] != '=' || string(pair[:len(name)]) != name {
				continue
			}
			v := pair[len(name)+1:]
			if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
				v = v[1 : len(v)-1]
			}
			return v
		}
	}
	return nil
}

// newCookieValue is the value of a new cookie: made of the connection alone,
// so that requests that race on it agree (Envoy: Filter::
// addDownstreamSetCookie).
func newCookieValue(dst []byte, ex *http.Exchange) []byte {
	var d xxhash.Digest
	d.Reset()
	if ex.Conn != nil {
		_, _ = d.WriteString(ex.Conn.Remote)
		_, _ = d.WriteString(ex.Conn.Destination())
	}
	const hex = "0123456789abcdef"
	v := d.Sum64()
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, hex[v>>shift&15])
	}
	return dst
}

// setAffinityCookie gives the response the cookies that Hash made up. Unlike
// Envoy it does so whatever the cluster's balancer is: istiod configures both
// together.
func (r *Route) setAffinityCookie(ex *http.Exchange) {
	if ex.Upstream == nil {
		return
	}
	found := false
	for i := range r.More.Hash {
		p := &r.More.Hash[i]
		if p.Kind == HashCookie && p.Cookie != nil && len(cookieValue(&ex.Req.Fields, p.Name)) == 0 {
			ex.Resp.Fields.Add(setCookie, p.newCookie(ex))
		}
		_, ok := p.hash(ex)
		found = found || ok
		if p.Terminal && found {
			return
		}
	}
}

var setCookie = []byte("set-cookie")

// newCookie makes the value of a Set-Cookie line.
func (p *HashPolicy) newCookie(ex *http.Exchange) []byte {
	var buf [256]byte
	v := append(append(buf[:0], p.Name...), `="`...)
	v = append(newCookieValue(v, ex), '"')
	if p.Cookie.TTL > 0 {
		v = strconv.AppendInt(append(v, "; Max-Age="...), int64(p.Cookie.TTL/time.Second), 10)
	}
	return ex.KeepBytes(append(v, p.Cookie.Attributes...))
}
