// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"pillion/proxy/http"
	"pillion/proxy/router"
)

// prepareUpgrade makes one form of all requests to switch the protocol: a head
// without a body. What follows it is of the other protocol, and waits for the
// answer.
//
// An offer that comes with a body, or with HEAD, is passed over, as any offer
// may be (RFC 9110 section 7.8): where the one protocol ends and the other
// begins is something that two recipients could see in two ways.
func prepareUpgrade(h *http.RequestHead) {
	switch {
	case h.Upgrade == nil:
	case h.ExtendedConnect:
		h.Framing = http.Framing{}
		h.Fields.DelID(http.HeaderContentLength)
	case h.Method == http.MethodHead, h.Framing.Kind != http.BodyNone && (h.Framing.Kind != http.BodyLength || h.Framing.Length > 0):
		h.Upgrade = nil
	default:
		h.Framing = http.Framing{}
	}
}

// mayUpgrade is admitUpgrade for a request that may have been admitted before,
// to another route.
func (st *stream) mayUpgrade(route *router.Route) bool {
	if st.upgrading {
		return st.cfg.allowsUpgrade(route, st.ex.Req.Upgrade)
	}
	return st.admitUpgrade(route)
}

// admitUpgrade reports whether the request may switch the protocol, and counts
// it until finish.
func (st *stream) admitUpgrade(route *router.Route) bool {
	if !st.cfg.allowsUpgrade(route, st.ex.Req.Upgrade) {
		return false
	}
	st.upgrading = true
	st.c.m.Stats.Upgrades.Inc()
	st.c.m.Stats.UpgradesActive.Inc()
	return true
}

// allowsUpgrade reports whether clients may switch to a protocol. What the
// route says comes first; route may be nil.
func (cfg *Config) allowsUpgrade(route *router.Route, protocol []byte) bool {
	if route != nil && route.More != nil {
		if enabled, found := route.More.Upgrades.Find(protocol); found {
			return enabled
		}
	}
	enabled, _ := cfg.Upgrades.Find(protocol)
	return enabled
}
