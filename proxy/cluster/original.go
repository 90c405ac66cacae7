// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"hash/maphash"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/pool"
)

const (
	// maxOriginal bounds the hosts of one ORIGINAL_DST cluster. Requests may
	// name any address, so that the number is in the hands of clients.
	maxOriginal = 4096
	// minCleanup is the shortest time that a host without requests is kept.
	// Envoy's default of 5 s would close most keep-alive connections early.
	minCleanup = 60 * time.Second
	// maxCleanup is a bound for "never", which Istio writes as 292 years.
	maxCleanup = 24 * time.Hour
	// originalBuckets is a power of two.
	originalBuckets = 256
)

// originalDst makes hosts of the addresses that requests were meant for.
// Known addresses are found without a lock.
type originalDst struct {
	table atomic.Pointer[originalTable] // nil until the first host

	mu     sync.Mutex
	count  int         // guarded by mu
	timer  *time.Timer // guarded by mu; runs while there are hosts
	closed bool        // guarded by mu
	hand   int         // guarded by mu; bucket at which the next eviction begins
}

type originalTable struct {
	seed    maphash.Seed
	buckets [originalBuckets]atomic.Pointer[originalEntry]
}

// originalEntry is one address as requests write it.
type originalEntry struct {
	key  string
	host *Host
	// used is set by requests and cleared by each clean-up: what a clean-up
	// finds cleared was idle for a whole interval.
	used atomic.Bool
	next atomic.Pointer[originalEntry] // written with originalDst.mu held
}

// pick returns the host of the address that a request was meant for, nil if
// there is none that it may have.
func (o *originalDst) pick(c *Cluster, a *PickArgs) *Host {
	t := o.table.Load()
	if t != nil {
		var e *originalEntry
		if a.OriginalDst != "" {
			e = t.buckets[maphash.String(t.seed, a.OriginalDst)%originalBuckets].Load()
			for e != nil && e.key != a.OriginalDst {
				e = e.next.Load()
			}
		} else {
			e = t.buckets[maphash.Bytes(t.seed, a.Authority)%originalBuckets].Load()
			for e != nil && e.key != string(a.Authority) {
				e = e.next.Load()
			}
		}
		if e != nil {
			if !e.used.Load() {
				e.used.Store(true)
			}
			return e.host
		}
	}
	key := a.OriginalDst
	if key == "" {
		key = string(a.Authority)
	}
	h := o.add(c, key)
	if h == nil {
		c.Stats.OriginalDstHostInvalid.Inc()
		c.Stats.CxNoneHealthy.Inc()
	}
	return h
}

// add makes the host of an address that wasn't known.
func (o *originalDst) add(c *Cluster, key string) *Host {
	cfg := c.config.Load()
	target, ok := c.originalTarget(cfg, key)
	if !ok {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.table.Load()
	if t == nil {
		t = &originalTable{seed: maphash.MakeSeed()}
		o.table.Store(t)
	}
	bucket := &t.buckets[maphash.String(t.seed, key)%originalBuckets]
	for e := bucket.Load(); e != nil; e = e.next.Load() {
		if e.key == key { // made by another request meanwhile
			return e.host
		}
	}
	if o.count >= maxOriginal && !o.evict(t) {
		return nil
	}
	e := &originalEntry{key: key, host: c.newHost(cfg, nil, &Endpoint{Address: target.Address, TLS: cfg.TLS}, target)}
	e.used.Store(true)
	e.next.Store(bucket.Load())
	bucket.Store(e)
	o.count++
	if o.timer == nil && !o.closed {
		o.timer = time.AfterFunc(cleanup(cfg), func() { o.sweep(c) })
	}
	return e.host
}

func cleanup(cfg *Config) time.Duration {
	if cfg.Original == nil {
		return minCleanup
	}
	return min(max(cfg.Original.Cleanup, minCleanup), maxCleanup)
}

// sweep removes hosts that had no request for a whole interval.
func (o *originalDst) sweep(c *Cluster) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.table.Load()
	for i := range t.buckets {
		o.filter(&t.buckets[i], func(e *originalEntry) bool {
			return !e.used.Swap(false) && e.host.pool.Stats.RqActive.Value() == 0
		}, o.count)
	}
	if o.count > 0 && !o.closed {
		o.timer.Reset(cleanup(c.config.Load()))
		return
	}
	o.timer = nil
}

// evict makes room for one host, by the clock algorithm: it takes the next
// one that had no request since the last time around. mu is held.
func (o *originalDst) evict(t *originalTable) bool {
	for range 2 * originalBuckets {
		bucket := &t.buckets[o.hand%originalBuckets]
		o.hand++
		if o.filter(bucket, func(e *originalEntry) bool {
			return !e.used.Swap(false) && e.host.pool.Stats.RqActive.Value() == 0
		}, 1) > 0 {
			return true
		}
	}
	return false
}

// filter drains and removes up to most entries of a bucket for which drop
// holds. Readers that are in the chain go on through what is removed. mu is
// held.
func (o *originalDst) filter(bucket *atomic.Pointer[originalEntry], drop func(*originalEntry) bool, most int) (dropped int) {
	at := bucket
	for e := at.Load(); e != nil && dropped < most; e = at.Load() {
		if !drop(e) {
			at = &e.next
			continue
		}
		at.Store(e.next.Load())
		e.host.pool.Close()
		o.count--
		dropped++
	}
	return dropped
}

// reset drains all hosts, after the way to make them has changed.
func (o *originalDst) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.table.Load(); t != nil {
		for i := range t.buckets {
			o.filter(&t.buckets[i], func(*originalEntry) bool { return true }, o.count)
		}
	}
}

// hosts returns all hosts.
func (o *originalDst) hosts() []*Host {
	t := o.table.Load()
	if t == nil {
		return nil
	}
	var out []*Host
	for i := range t.buckets {
		for e := t.buckets[i].Load(); e != nil; e = e.next.Load() {
			out = append(out, e.host)
		}
	}
	return out
}

func (o *originalDst) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.timer != nil {
		o.timer.Stop()
	}
}

// originalTarget returns where the connections of an address go, false if
// the address is malformed or one of the proxy's own.
func (c *Cluster) originalTarget(cfg *Config, key string) (pool.Target, bool) {
	host, port, ok := splitAuthority(key)
	if !ok {
		return pool.Target{}, false
	}
	if p := cfg.Original.port(); p != 0 {
		port = p
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		ap := netip.AddrPortFrom(ip.Unmap(), port)
		return pool.Target{Address: ap.String()}, !c.manager.refuses(ap)
	}
	return pool.Target{
		Address: host + ":" + strconv.Itoa(int(port)),
		Resolve: func(ctx context.Context) ([]netip.AddrPort, error) { return c.manager.resolveOriginal(ctx, host, port) },
	}, true
}

// port returns the overriding port, 0 for none.
func (o *OriginalLB) port() uint16 {
	if o == nil {
		return 0
	}
	return o.Port
}

// refuses reports whether no request may be sent to an address: one of the
// proxy's own listeners, where it would come back for ever, or one that
// stands for no single host. The unspecified address reaches this machine,
// so that it would be a way around the check.
func (m *Manager) refuses(a netip.AddrPort) bool {
	ip := a.Addr().Unmap().WithZone("")
	if ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	return m.opts.SelfAddr != nil && m.opts.SelfAddr(netip.AddrPortFrom(ip, a.Port()))
}

// resolveOriginal looks a name up for one new connection, whose timeout ctx
// carries.
func (m *Manager) resolveOriginal(ctx context.Context, host string, port uint16) ([]netip.AddrPort, error) {
	addrs, err := resolve(ctx, m.opts.Resolver, host, FamilyV4Preferred)
	if err != nil || len(addrs) == 0 {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &pool.ResolveError{Reason: reason(err)}
	}
	var out []netip.AddrPort
	for _, a := range addrs {
		if ap := netip.AddrPortFrom(a, port); !m.refuses(ap) {
			out = append(out, ap)
		}
	}
	if len(out) == 0 {
		return nil, &pool.ResolveError{Reason: host + " is this proxy itself"}
	}
	return out, nil
}

// maxNameLen is the longest name that DNS can hold (RFC 1035 section 2.3.4).
const maxNameLen = 253

// splitAuthority splits host, host:port or [v6]:port; the port is 80 if there
// is none. Names are returned in lower case.
func splitAuthority(s string) (host string, port uint16, ok bool) {
	host, rest := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", 0, false
		}
		host, rest = s[1:end], s[end+1:]
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return "", 0, false
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, rest = s[:i], s[i:]
	}
	port = 80
	if rest != "" {
		n, err := strconv.ParseUint(rest[1:], 10, 16)
		if rest[0] != ':' || err != nil || n == 0 {
			return "", 0, false
		}
		port = uint16(n)
	}
	if host == "" || len(host) > maxNameLen {
		return "", 0, false
	}
	host = strings.ToLower(host)
	if _, err := netip.ParseAddr(host); err == nil {
		return host, port, true
	}
	for i := range len(host) {
		b := host[i]
		if b != '-' && b != '.' && b != '_' && (b < '0' || b > '9') && (b < 'a' || b > 'z') {
			return "", 0, false
		}
	}
	return host, port, true
}
