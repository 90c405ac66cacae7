// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"pillion/proxy/stats"
	"pillion/proxy/xds"
)

// table holds the resources of one type, as they came. R is what runs of one. Guarded by
// Sink.mu, but for counts.
type table[R any] struct {
	typeURL, word string // word is the type's name in messages
	version       string // of the last response
	updated       time.Time
	answered      bool // there was a response of the server, not of the cache
	cached        bool // what is held is what the cache had
	all           map[string]*entry[R]
	counts        counts
	// asked are the names that are asked for; nil of types that are asked for as a whole.
	asked map[string]bool
	// sums keeps nothing of a body but what it takes to know it again.
	sums bool
}

// counts are what is counted of one type.
type counts struct {
	// taken are responses of which something was taken, or that held nothing; rejected
	// those of which something was refused.
	taken, rejected                       stats.Counter
	accepted, unchanged, refused, removed stats.Counter // resources
}

func (c *counts) changes() uint64 { return c.accepted.Value() + c.removed.Value() }

// held is a resource as it came; at is zero if there is none.
type held struct {
	body     []byte
	version  string // its own, which istiod's don't have
	response string // the version of the response
	at       time.Time
}

func (h *held) is() bool { return !h.at.IsZero() }

// entry is one name of a type.
type entry[R any] struct {
	name string
	good held // the last one that was accepted
	// served is what is served instead while good waits; empty if nothing is, and if good
	// is served.
	served held
	warm   bool      // good waits for what it needs
	waits  string    // for what; also of one that is served without it
	since  time.Time // when that began
	bad    held      // the last one that was refused, if none was accepted after it
	why    string    // it was
	left   time.Time // when the server removed it, if it is kept all the same
	run    R
}

func newTable[R any](typeURL, word string) table[R] {
	return table[R]{typeURL: typeURL, word: word, all: map[string]*entry[R]{}}
}

// taker compiles one kind of resources and says what becomes of them.
type taker[R any] interface {
	// take compiles a resource, and keeps what it made for commit. An error refuses it.
	take(e *entry[R], body []byte) error
	// drop ends a resource that the server has removed. It takes the entry out of the table
	// unless it is kept a while.
	drop(e *entry[R])
}

// update takes one response. The error names each resource that was refused.
func (t *table[R]) update(u *xds.Update, by taker[R]) error {
	t.version, t.updated = u.Version, time.Now()
	full := u.Full || t.isFirst(u)
	seen := make(map[string]bool, len(u.Resources))
	var errs []error
	for i := range u.Resources {
		r := &u.Resources[i]
		if seen[r.Name] {
			t.counts.refused.Inc()
			errs = append(errs, fmt.Errorf("%s %s: name: is there twice in one response; the first one was taken", t.word, r.Name))
			continue
		}
		seen[r.Name] = true
		if err := t.one(r, u.Version, by); err != nil {
			errs = append(errs, err)
		}
	}
	gone := u.Removed
	if full {
		gone = slices.Sorted(maps.Keys(t.all))
	}
	for _, name := range gone {
		if e := t.all[name]; e != nil && !seen[name] && e.left.IsZero() {
			t.counts.removed.Inc()
			by.drop(e)
		}
	}
	if len(errs) > 0 {
		t.counts.rejected.Inc()
	}
	if len(errs) < len(u.Resources) || len(errs) == 0 {
		t.counts.taken.Inc()
	}
	return errors.Join(errs...)
}

// isFirst reports whether a response is the first one of a server after what is held
// came from the cache, and is all there is. istiod gives its resources no versions, so that it can
// leave none out.
func (t *table[R]) isFirst(u *xds.Update) bool {
	first := t.cached && t.asked == nil && !slices.ContainsFunc(u.Resources, func(r xds.Resource) bool { return r.Version != "" })
	t.cached = false
	return first
}

// one takes one resource.
func (t *table[R]) one(r *xds.Resource, version string, by taker[R]) error {
	e := t.all[r.Name]
	if e == nil {
		e = &entry[R]{name: r.Name}
	}
	key := t.key(r.Body)
	if t.holds(e, key) {
		t.counts.unchanged.Inc()
		e.good.version, e.good.response, e.bad, e.why = r.Version, version, held{}, ""
		return nil
	}
	now := held{body: key, version: r.Version, response: version, at: time.Now()}
	if err := t.accept(e, now, r.Body, by); err != nil {
		t.refuse(e, now, err)
		return fmt.Errorf("%s %s: %w", t.word, r.Name, err)
	}
	return nil
}

// holds reports whether a body is what is held already, of an entry that may be nil. key
// is what is kept of the body.
func (t *table[R]) holds(e *entry[R], key []byte) bool {
	return e != nil && e.good.is() && bytes.Equal(e.good.body, key) && e.left.IsZero()
}

// accept takes one resource, or says why not.
func (t *table[R]) accept(e *entry[R], now held, body []byte, by taker[R]) error {
	before := e.served // what is served
	if !e.warm {
		before = e.good
	}
	if err := by.take(e, body); err != nil {
		return err
	}
	t.counts.accepted.Inc()
	e.served = held{}
	if e.warm {
		e.served = before
	}
	e.good, e.bad, e.why, e.left = now, held{}, "", time.Time{}
	t.all[e.name] = e
	return nil
}

// retry tries what was refused again, because something that it names has changed.
func (t *table[R]) retry(by taker[R]) {
	for _, e := range t.all {
		if e.bad.is() {
			if err := t.accept(e, e.bad, e.bad.body, by); err != nil {
				e.why = err.Error()
			}
		}
	}
}

// key is what is kept of a body.
func (t *table[R]) key(body []byte) []byte {
	if !t.sums {
		return body
	}
	sum := sha256.Sum256(body)
	return sum[:]
}

// refuse keeps a resource that isn't served, for whoever asks why.
func (t *table[R]) refuse(e *entry[R], what held, why error) {
	t.counts.refused.Inc()
	e.bad, e.why = what, why.Error()
	t.all[e.name] = e
}

// wait has good wait for something; what is served before stays.
func (e *entry[R]) wait(what string) {
	if !e.warm || e.waits == "" {
		e.since = time.Now()
	}
	e.warm, e.waits = true, what
}

// serve says that good is served now.
func (e *entry[R]) serve() { e.warm, e.waits, e.served = false, "", held{} }

// have returns the names and versions of what is held, as the server called them.
func (t *table[R]) have() map[string]string {
	out := make(map[string]string, len(t.all))
	for name, e := range t.all {
		if e.good.is() && e.left.IsZero() {
			out[name] = e.good.version
		}
	}
	return out
}

// forget drops what was asked for and is not any more.
func (t *table[R]) forget(asked map[string]bool) {
	for name := range t.asked {
		if !asked[name] {
			delete(t.all, name)
		}
	}
	t.asked = asked
}

// status returns a copy of all that is known.
func (t *table[R]) status() TypeStatus {
	out := TypeStatus{TypeURL: t.typeURL, Version: t.version, Updated: t.updated, Resources: make([]Resource, 0, len(t.all))}
	for _, name := range slices.Sorted(maps.Keys(t.all)) {
		e := t.all[name]
		r := Resource{Name: name, Waits: e.waits, Draining: !e.left.IsZero()}
		if e.waits != "" {
			r.Since = e.since
		}
		if e.warm {
			r.Active, r.Warming = t.public(&e.served), t.public(&e.good)
		} else {
			r.Active = t.public(&e.good)
		}
		if bad := t.public(&e.bad); bad != nil {
			r.Refused = &Refusal{Held: *bad, Reason: e.why}
		}
		out.Resources = append(out.Resources, r)
	}
	return out
}

func (t *table[R]) public(h *held) *Held {
	if !h.is() {
		return nil
	}
	out := &Held{Body: h.body, Version: cmp.Or(h.version, h.response), Updated: h.at}
	if t.sums {
		out.Body = nil
	}
	return out
}
