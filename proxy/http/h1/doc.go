// SPDX-License-Identifier: Apache-2.0

// Package h1 is the HTTP/1.1 codec of both sides of the proxy.
//
// Its lower half is pure: parsers that turn bytes into message heads and body
// pieces, and writers that turn them back, with no socket, no clock and no
// allocation in steady state. They are strict. RFC 9112 lets a recipient
// repair a good many malformed messages; a proxy that repairs shows the next
// recipient another message than its own rules have judged, so whatever two
// implementations could read in two ways is refused here.
//
// Its upper half serves connections with them.
package h1
