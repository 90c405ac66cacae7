// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"pillion/proxy/http"
	"pillion/proxy/tls"
)

// maxNames bounds the names under which connections to one host are kept apart:
// clients choose them.
const maxNames = 64

// names are the pools of the connections that were made under a name, where the
// handshake depends on each request (auto_sni, auto_san_validation). Each is a
// Pool beside that of the host, and shares its counters, its limits and its TLS.
type names struct {
	mu     sync.RWMutex
	byName map[string]*Pool // guarded by mu; at most maxNames
}

// For returns the pool for a request to authority: p itself, unless connections
// with TLS say or check whom the request is for. It doesn't allocate for a name
// that is known.
func (p *Pool) For(authority []byte) *Pool {
	s := p.group.settings.Load()
	if !s.AutoSNI && !s.AutoSAN || p.tls.Load() == nil {
		return p
	}
	host := hostOf(authority)
	if len(host) == 0 {
		return p
	}
	now := http.Now()
	p.names.mu.RLock()
	named := p.names.byName[string(host)]
	p.names.mu.RUnlock()
	if named == nil {
		named = p.named(strings.ToLower(string(host)))
	}
	named.asked.Store(now)
	return named
}

// named returns the pool of a name, a new one if there is none. Where there are too
// many, the one that was asked for least recently is closed: what is in use there
// is closed when its request is done.
func (p *Pool) named(name string) *Pool {
	p.names.mu.Lock()
	defer p.names.mu.Unlock()
	if old := p.names.byName[name]; old != nil {
		return old
	}
	if len(p.names.byName) >= maxNames {
		var coldest *Pool
		for _, q := range p.names.byName {
			if coldest == nil || q.asked.Load() < coldest.asked.Load() {
				coldest = q
			}
		}
		delete(p.names.byName, coldest.name)
		defer coldest.Close()
	}
	q := &Pool{group: p.group, target: p.target, namesPart: namesPart{name: name, host: p}}
	q.gone.Store(p.gone.Load())
	if p.names.byName == nil {
		p.names.byName = map[string]*Pool{}
	}
	p.names.byName[name] = q
	return q
}

// eachName calls f for the pools of names.
func (p *Pool) eachName(f func(*Pool)) {
	p.names.mu.RLock()
	all := make([]*Pool, 0, len(p.names.byName))
	for _, q := range p.names.byName {
		all = append(all, q)
	}
	p.names.mu.RUnlock()
	for _, q := range all {
		f(q)
	}
}

// owner is the pool of the host.
func (p *Pool) owner() *Pool {
	if p.host != nil {
		return p.host
	}
	return p
}

// namesPart is what a Pool has for names.
type namesPart struct {
	name  string       // of a pool of a name; immutable
	host  *Pool        // that the pool of a name is beside; nil for the host's own; immutable
	asked atomic.Int64 // http.Now; when a pool of a name was last asked for
	names names        // of the host's own
}

// hostOf cuts the port off an authority, and the brackets of IPv6.
func hostOf(authority []byte) []byte {
	if len(authority) > 0 && authority[0] == '[' {
		for i, c := range authority {
			if c == ']' {
				return authority[1:i]
			}
		}
		return authority
	}
	for i, c := range authority {
		if c == ':' {
			return authority[:i]
		}
	}
	return authority
}

// isAddress reports whether a name is an IP address, which no SNI may be (RFC 6066
// section 3).
func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// maxServerName is the length of the longest name of DNS.
const maxServerName = 255

// errNoName is why a connection isn't made whose host has to prove a name that
// nobody said.
var errNoName = &tls.Error{Kind: tls.KindSAN, Reason: "auto_san_validation: there is no host name to check the certificate against"}

// errLongName is why a connection isn't made under a name that can't be one.
var errLongName = &tls.Error{Kind: tls.KindSAN, Reason: "auto_sni: the request's host is longer than 255 bytes"}

// offer is what a handshake says otherwise than its context. A request to an address,
// or to localhost, says where its client found the proxy, not whom it wants: the
// name of the service takes its place, if there is one.
func (p *Pool) offer(s *Settings, alpn []string) (o tls.ClientOptions, err error) {
	o.ALPN = alpn
	if !s.AutoSNI && !s.AutoSAN {
		return o, nil
	}
	name := p.name
	if s.ServerName != "" && (name == "" || name == "localhost" || isAddress(name)) {
		name = s.ServerName
	}
	if len(name) > maxServerName {
		return o, errLongName
	}
	if s.AutoSNI && !isAddress(name) {
		o.ServerName = name
	}
	if o.VerifySAN = name; !s.AutoSAN {
		o.VerifySAN = ""
	} else if name == "" {
		return o, errNoName
	}
	return o, nil
}
