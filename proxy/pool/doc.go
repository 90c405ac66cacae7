// SPDX-License-Identifier: Apache-2.0

// Package pool keeps connections to upstream hosts. A Group is what the
// hosts of one cluster share: limits, the queue of those who wait at a
// limit, settings. A Pool is the connections to one host. A Sweeper looks
// after the idle ones of all groups.
//
// # Who does the work
//
// The goroutine that wants a connection makes it: Acquire connects in place.
// Locks are held to move pointers only, never across a system call. Nothing
// runs per connection.
//
// # Limits
//
// Limits hold for the group, exactly, on all cores together. A request that
// finds no idle connection is pending until it has one, also while it
// connects, and MaxPending bounds those (as in Envoy, whose
// max_pending_requests counts the same). With MaxConnections open, it first
// takes the place of an idle connection to another host; if there is none it
// waits in line. Each connection or place that becomes free is handed to one
// waiter. Waiters for one host are served in order of arrival, and a waiter
// for another host is passed over a few times at most.
//
// # Connections that the host closes
//
// HTTP/1 hosts close idle connections when they like. A request must never
// fail for that, so there are four layers:
//
//   - The sweep closes idle connections that the host has closed.
//   - Acquire looks for FIN before it reuses a connection that was idle for
//     more than a moment, and always before requests that can't be repeated.
//   - Each Pool learns after what time the host closes, and gives requests
//     that can't be repeated a new connection shortly before that. It isn't
//     needed for others: the forwarder repeats those.
//   - For a FIN that crosses the request on the wire, h1.ClientConn.Unseen
//     tells whether the host's kernel took any of it; if not, any request
//     may be repeated.
package pool
