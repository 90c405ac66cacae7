// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"pillion/proxy/http/h1"
)

// Conn is one upstream connection. Between Acquire and Put it belongs to the
// caller.
type Conn struct {
	// H1 speaks HTTP/1 on the connection. Immutable.
	H1 *h1.ClientConn

	requests uint32 // answered and in progress
}

// Reused reports whether the connection carried a request before the current
// one, so that the host may have closed it meanwhile.
func (c *Conn) Reused() bool { return c.requests > 1 }
