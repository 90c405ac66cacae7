// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"maps"
	"slices"
	"time"

	"pillion/proxy/stats"
)

// set is a set of names of resources.
type set map[string]struct{}

func (s set) has(name string) bool { _, ok := s[name]; return ok }

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

// request is what one message to the server says, in either protocol.
type request struct {
	typeURL string
	nonce   string // of the response that is answered; empty if none is
	refusal string // why that was refused; empty if it was taken

	subscribe, unsubscribe []string          // delta
	initial                map[string]string // delta: names and versions of what is held

	names   []string // state of the world: all that is asked for
	version string   // state of the world: the last one that was taken
}

// subscription is what is asked for of one type, and how that stands on the
// stream at hand. It has no lock: all of it but what is marked immutable or
// atomic is guarded by Client.mu.
//
// Requests are made when the stream can take one, from what there is to say by
// then, so that what waits to be sent is never more than this, even if the
// server doesn't read.
type subscription struct {
	url      string // immutable
	wildcard bool   // immutable: the type is asked for as a whole

	want set // names that the Sink wants

	// The stream at hand.
	begun   bool              // the first request was made
	asked   set               // names that the server knows to be asked for
	forget  set               // of asked: unwanted since, even if wanted again by now
	changed bool              // want and asked may differ
	initial map[string]string // what is held, for the first request
	nonce   string            // of the last response
	answers []answer          // that are still to be sent, at most maxAnswers
	// State of the world: the nonce under which the names were said last, since
	// they were changed at unsureAt; and that they have to be said again.
	unsure   string
	unsureAt time.Time
	again    bool

	version string // the last that was taken; outlives the stream

	// For Status.
	askedAt, updatedAt time.Time
	refused            string // why the last update was refused, until one is taken

	updates, nacks, failures, resources, octets stats.Counter // atomic
}

// answer is what is to be said about a response.
type answer struct {
	nonce   string
	version string // the last that was taken by then
	refusal string // empty: the response was taken
}

// maxAnswers bounds the answers that wait. Only the last nonce counts to a
// server (shouldRespondDelta in pilot/pkg/xds/delta.go of Istio), so the oldest
// can be left out.
const maxAnswers = 16

// reset forgets the stream before. have is what is held.
func (s *subscription) reset(have map[string]string) {
	s.begun, s.changed, s.again = false, false, false
	s.asked, s.forget, s.initial, s.answers = nil, nil, have, nil
	s.nonce, s.unsure = "", ""
	s.askedAt = time.Time{}
}

// owed reports whether a server has to answer the first request. One that was
// told the version of everything may have nothing to add; istiod's resources
// have no versions in the delta protocol, and it always answers.
func (s *subscription) owed(world bool) bool {
	if world {
		return s.version == ""
	}
	for _, version := range s.initial {
		if version == "" {
			return true
		}
	}
	return len(s.initial) == 0
}

// setWant replaces what is wanted.
func (s *subscription) setWant(names set) {
	for n := range s.asked {
		if names.has(n) {
			continue
		}
		// The server has to be told even if the name is wanted again before it
		// was: what came in between was dropped, and is sent again only to one
		// who subscribes anew.
		if s.forget == nil {
			s.forget = set{}
		}
		s.forget[n] = struct{}{}
	}
	s.want = names
	s.changed = true
}

// pending reports whether there may be something to send.
func (s *subscription) pending() bool {
	if !s.begun {
		return s.wildcard || len(s.want) > 0
	}
	return len(s.answers) > 0 || s.changed || s.again
}

// next returns the next request of the type. An answer carries no change and a
// change answers nothing: Istio's server looks at either one of them only.
func (s *subscription) next(world bool) (request, bool) {
	r := request{typeURL: s.url}
	if world {
		r.version = s.version
	}
	switch {
	case !s.pending():
		return r, false
	case !s.begun:
		s.first(&r, world)
		return r, true
	case len(s.answers) > 0:
		a := s.answers[0]
		s.answers = slices.Delete(s.answers, 0, 1)
		r.nonce, r.refusal = a.nonce, a.refusal
		if world {
			r.version, r.names = a.version, s.asked.sorted()
			s.confirm(a)
		}
		return r, true
	case world:
		return r, s.changeWorld(&r)
	}
	return r, s.changeDelta(&r)
}

// first makes the first request. One that names nothing asks for everything,
// so it is made of types that are asked for as a whole, and of others only
// when there is a name.
func (s *subscription) first(r *request, world bool) {
	s.begun, s.changed, s.forget = true, false, nil
	s.askedAt = time.Now()
	if !s.wildcard {
		s.asked = maps.Clone(s.want)
	}
	if world {
		r.names = s.asked.sorted()
		return
	}
	r.subscribe = s.asked.sorted()
	// Istio's server takes these names for subscribed to.
	r.initial = make(map[string]string, len(s.initial))
	for name, version := range s.initial {
		if name != "" && (s.wildcard || s.asked.has(name)) {
			r.initial[name] = version
		}
	}
	s.initial = nil
}

// changeDelta tells the server what is asked for besides and no longer.
func (s *subscription) changeDelta(r *request) bool {
	for n := range s.want {
		if !s.asked.has(n) {
			r.subscribe = append(r.subscribe, n)
		}
	}
	slices.Sort(r.subscribe)
	r.unsubscribe = s.forget.sorted()
	s.changed = false
	for _, n := range r.unsubscribe {
		delete(s.asked, n)
		s.changed = s.changed || s.want.has(n)
	}
	s.forget = nil
	if s.asked == nil {
		s.asked = set{}
	}
	for _, n := range r.subscribe {
		s.asked[n] = struct{}{}
	}
	return len(r.subscribe)+len(r.unsubscribe) > 0
}

// changeWorld tells the server all that is asked for from now on. It carries
// the last nonce, without which Istio's server would take it for the first
// request of the type and send everything.
func (s *subscription) changeWorld(r *request) bool {
	list, anew := maps.Clone(s.want), false
	for n := range s.forget {
		if list.has(n) {
			delete(list, n)
			anew = true
		}
	}
	said := s.again || !maps.Equal(list, s.asked)
	s.asked, s.forget, s.changed, s.again = list, nil, anew, false
	r.names, r.nonce = list.sorted(), s.nonce
	if said {
		s.unsure, s.unsureAt = s.nonce, time.Now()
	}
	return said
}

// crossing is how long a request may be on its way to the server while a
// response is on its way here.
const crossing = time.Minute

// confirm follows an answer. One that takes a response says the names again, by
// its own nonce. Istio's server looks at no names in one that refuses it; and if
// they were said under the nonce before, it may have had the new one out by then
// and have ignored that too (ShouldRespond in pkg/xds/server.go). So they are
// said once more.
func (s *subscription) confirm(a answer) {
	switch {
	case s.unsure == "":
	case a.refusal == "":
		s.unsure = a.nonce
	case s.unsure != a.nonce && time.Since(s.unsureAt) < crossing:
		s.again = true
	}
}

// took records how the last response fared.
func (s *subscription) took(nonce, version, refusal string) {
	s.nonce, s.refused = nonce, refusal
	s.updatedAt = time.Now()
	if refusal != "" {
		s.nacks.Inc()
	} else {
		s.updates.Inc()
		s.version = version
	}
	if nonce == "" {
		// An answer without a nonce would be taken for a first request, and be
		// answered with everything, for ever.
		return
	}
	if len(s.answers) == maxAnswers {
		s.answers = slices.Delete(s.answers, 0, 1)
	}
	s.answers = append(s.answers, answer{nonce, s.version, refusal})
}

// admit drops what isn't wanted of an update, or not any more, and returns how
// much that was.
func (s *subscription) admit(u *Update) int {
	if s.wildcard {
		return 0
	}
	before := len(u.Resources) + len(u.Removed)
	u.Resources = slices.DeleteFunc(u.Resources, func(r Resource) bool { return !s.want.has(r.Name) })
	u.Removed = slices.DeleteFunc(u.Removed, func(n string) bool { return !s.want.has(n) })
	return before - len(u.Resources) - len(u.Removed)
}
