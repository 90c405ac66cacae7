// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"time"

	"pillion/bench/frame"
)

const (
	// stallBytes are sent on a stream that is to stall. Their echo is four times
	// what the client takes of it.
	stallBytes = 4 * clientStreamWindow
	// stallMessage is the size of the messages that make them up.
	stallMessage = 8 << 10
)

// stall opens a stream whose echo the client doesn't take beyond its window.
func (c *client2) stall() {
	s := c.open(time.Time{})
	s.quiet, s.stalled, s.unsent = true, true, stallBytes
	c.pour(s)
}

// pour sends of a stalled stream's messages what the windows let through.
func (c *client2) pour(s *call2) {
	message := GRPCMessage(stallMessage - grpcPrefix)
	for s.unsent > 0 {
		if n := int64(len(message)); c.window < n || s.window < n {
			c.waiting = append(c.waiting, s)
			return
		}
		c.window -= stallMessage
		s.window -= stallMessage
		s.unsent -= stallMessage
		c.out = append(frame.Append(c.out, len(message), frame.Data, 0, s.id), message...)
	}
}

// stalled gives the stalled streams up. It is an error if one was not: the load
// didn't show then what it is for.
func (l *http2Loop) stalled() error {
	for i := range l.conns {
		c := &l.conns[i]
		for id, s := range c.calls {
			if !s.stalled {
				continue
			}
			if s.got < clientStreamWindow/2 {
				return fmt.Errorf("a stream that was to stall got %d octets: nobody had to hold anything back for it", s.got)
			}
			delete(c.calls, id) // the connection's end ends it
		}
	}
	return nil
}
