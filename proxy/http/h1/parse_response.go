// SPDX-License-Identifier: Apache-2.0

package h1

import "pillion/proxy/http"

// Sent is what must be known of a request to understand its response.
type Sent struct {
	Method http.Method
	// Upgrade is the protocol that the request offered to switch to, nil
	// without one: 101 is refused unless it names this protocol.
	Upgrade []byte
}

// Response parses one response head, interim ones (1xx) included, at the
// start of buf; n is as for Request. An error has SideUpstream and Status 502.
func (p *Parser) Response(buf []byte, sent Sent, h *http.ResponseHead, lim *Limits) (n int, err *http.Error) {
	return 0, nil
}
