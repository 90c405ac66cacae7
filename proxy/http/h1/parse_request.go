// SPDX-License-Identifier: Apache-2.0

package h1

import "pillion/proxy/http"

// Parser finds and parses the heads of one direction of one connection. Its
// zero value is ready; it makes itself ready for the next message when it
// returns a head or an error. Not safe for concurrent use.
type Parser struct {
	scanned int // bytes of buf that are known to hold no end of the head
}

// Request parses one request head at the start of buf.
//
// n > 0: the head is complete and ends before buf[n]; h is filled, and its
// slices alias buf. n == 0 with no error: more bytes are needed; call again
// with a longer buf that starts with the same bytes (it may have moved). Time
// stays linear however the bytes arrive. An error has SideDownstream, the
// status to answer with and Close set. The Fields of h keep every line but
// Host; StripRequestHop takes out what must not be forwarded.
func (p *Parser) Request(buf []byte, h *http.RequestHead, lim *Limits) (n int, err *http.Error) {
	return 0, nil
}
