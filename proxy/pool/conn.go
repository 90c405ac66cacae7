// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"pillion/proxy/http"
	"pillion/proxy/http/h1"
)

// Conn is one upstream connection. Between Acquire and Put it belongs to the
// caller, otherwise to its Pool.
type Conn struct {
	// H1 speaks HTTP/1 on the connection. Immutable.
	H1 *h1.ClientConn
	// TLS is what the handshake settled, nil on a plain connection. Immutable.
	TLS *http.TLSInfo

	pool    *Pool  // immutable
	epoch   uint32 // Pool.age when it was made; immutable
	created int64  // http.Now; immutable

	requests uint32 // carried, the current one included; owned by whoever owns the connection

	// Guarded by Pool.mu while the connection is idle.
	next, prev *Conn
	idleSince  int64 // http.Now
}

// Reused reports whether the connection carried a request before the current
// one, so that the host may have closed it meanwhile.
func (c *Conn) Reused() bool { return c.requests > 1 }

// Pool returns the pool that the connection belongs to.
func (c *Conn) Pool() *Pool { return c.pool }

// list is a chain of idle connections, the one used last first.
type list struct {
	head, tail *Conn
	n          int
}

func (l *list) pushHead(c *Conn) {
	c.prev, c.next = nil, l.head
	if l.head != nil {
		l.head.prev = c
	} else {
		l.tail = c
	}
	l.head = c
	l.n++
}

func (l *list) popHead() *Conn {
	c := l.head
	if c == nil {
		return nil
	}
	l.head = c.next
	if l.head != nil {
		l.head.prev = nil
	} else {
		l.tail = nil
	}
	c.next = nil
	l.n--
	return c
}

func (l *list) popTail() *Conn {
	c := l.tail
	if c == nil {
		return nil
	}
	l.tail = c.prev
	if l.tail != nil {
		l.tail.next = nil
	} else {
		l.head = nil
	}
	c.prev = nil
	l.n--
	return c
}

// appendList moves all of o behind l.
func (l *list) appendList(o *list) {
	switch {
	case o.head == nil:
		return
	case l.tail == nil:
		*l = *o
	default:
		l.tail.next, o.head.prev = o.head, l.tail
		l.tail = o.tail
		l.n += o.n
	}
	*o = list{}
}
