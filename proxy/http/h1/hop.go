// SPDX-License-Identifier: Apache-2.0

package h1

import "pillion/proxy/http"

// teTrailers is the one value of TE that means something to the next hop.
var teTrailers = []byte("trailers")

// StripRequestHop removes the fields that belong to the connection the
// request came on (RFC 9110 section 7.6.1): Connection and what it lists,
// Keep-Alive, Proxy-Connection, Upgrade, HTTP2-Settings, and TE but for
// "trailers".
//
// Content-Length and Transfer-Encoding stay, as the writer gives them their
// values in place; so do Connection and Upgrade of a request whose h.Upgrade
// is set. To refuse an upgrade, set h.Upgrade to nil first.
func StripRequestHop(h *http.RequestHead) {
	h.HostIndex -= stripHop(&h.Fields, h.Upgrade != nil, h.HostIndex)
}

// StripResponseHop is StripRequestHop for responses.
func StripResponseHop(h *http.ResponseHead) {
	stripHop(&h.Fields, h.Upgrade != nil, 0)
}

// stripHop returns how many of the first watched lines it has dropped.
func stripHop(f *http.Fields, upgrade bool, watched int) (dropped int) {
	fields := f.All()
	named := namesFields(fields)
	// Connection lines are needed until all others are judged, so lines are
	// only marked at first: one without a name is to go.
	for i := range fields {
		if fl := &fields[i]; belongsToHop(fl, upgrade) || named && isNamed(fields, fl) {
			fl.Name = nil
		}
	}
	w := 0
	for r := range fields {
		switch {
		case fields[r].Name == nil:
			if r < watched {
				dropped++
			}
			continue
		case w != r:
			fields[w] = fields[r]
		}
		w++
	}
	f.Truncate(w)
	return dropped
}

// belongsToHop reports whether a line is hop-by-hop whatever Connection says.
// A TE line that stays is cut down to what may stay of it.
func belongsToHop(fl *http.Field, upgrade bool) bool {
	switch fl.ID {
	case http.HeaderOther:
		return len(fl.Name) == len("http2-settings") && http.EqualFoldString(fl.Name, "http2-settings")
	case http.HeaderKeepAlive, http.HeaderProxyConnection:
		return true
	case http.HeaderConnection, http.HeaderUpgrade:
		return !upgrade
	case http.HeaderTE:
		if !listed(fl.Value, teTrailers) {
			return true
		}
		fl.Value = teTrailers
	}
	return false
}

// namesFields reports whether a Connection line lists anything but the
// options that the codec knows.
func namesFields(fields []http.Field) bool {
	for i := range fields {
		if fields[i].ID != http.HeaderConnection {
			continue
		}
		for rest := fields[i].Value; len(rest) > 0; {
			var opt []byte
			opt, rest = nextElement(rest)
			if len(opt) > 0 && optionOf(opt) == 0 {
				return true
			}
		}
	}
	return false
}

// isNamed reports whether a Connection line lists the name of fl. The two
// fields that have to be listed there are left to belongsToHop.
func isNamed(fields []http.Field, fl *http.Field) bool {
	if fl.ID == http.HeaderTE || fl.ID == http.HeaderUpgrade {
		return false
	}
	for i := range fields {
		if fields[i].ID == http.HeaderConnection && listed(fields[i].Value, fl.Name) {
			return true
		}
	}
	return false
}
