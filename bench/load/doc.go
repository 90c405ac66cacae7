// SPDX-License-Identifier: Apache-2.0

// Package load drives requests at a peer in three ways.
//
//   - Closed loop (Wrk, H2Load; RunHTTP2 and RunSocket without a rate): a fixed number of connections, each sending its next
//     request when the last was answered. It finds the peak, and keeps the peer
//     busy while its CPU time is counted. The latencies are those of a full
//     queue.
//   - Open loop (Open for HTTP/1.1; RunHTTP2 and RunSocket with a rate): requests fall due at a fixed rate whether or not earlier
//     ones were answered, and a latency counts from the moment a request was
//     due. A peer that stalls so pays for all that waited meanwhile
//     (no coordinated omission).
//   - Held connections (Hold, HoldHTTP2): many connections that each sent one request and
//     then stay open, for the memory that they take.
package load
