// SPDX-License-Identifier: Apache-2.0

// Package accesslog writes one line for each exchange, in Envoy's access log
// formats.
//
// A format is compiled once into a list of segments. Logging runs through
// them and appends to a buffer: nothing is allocated, and nothing waits for
// the disk. Each file has one sink, shared by all loggers of that path, which
// writes from a goroutine of its own; when a disk is so slow that the sink's
// bounded buffer is full, lines are dropped and counted.
//
// Values that come from a peer are escaped, so that no request can forge a
// line or a field of one. Envoy leaves them as they are in the text format:
// its codecs let no line end into a field, but a quote in a User-Agent still
// ends the quoted field it stands in.
package accesslog
