// SPDX-License-Identifier: Apache-2.0

// Package h2 is the HTTP/2 codec of both sides (RFC 9113, RFC 7541).
//
// # Who runs what
//
// A Conn has one goroutine that reads it (Run). It decodes frames where they
// lie in the read buffer and calls the Receiver of the stream that each one
// belongs to, in order and without holding a lock. A receiver answers by
// appending frames to this or another connection; what has gathered on a
// connection is written when the reader that caused it has run dry, in one
// system call and without blocking. Only a socket that takes no more gets a
// goroutine to wait for it. So an exchange between two HTTP/2 connections
// needs no goroutine of its own.
//
// # Flow control
//
// The credit of a stream is given back to its sender when the receiver says
// so (Stream.Credit), which it does when the other side has taken the octets.
// The credit of the connection is given back at once: a stream that nobody
// reads holds back itself and never another one. What a stream can't send
// waits in its queue, which is as long as the credit that was given for it.
//
// # What is taken from golang.org/x/net/http2
//
// The names and numbers of the protocol, and hpack's Huffman code. Frames and
// header blocks are read in place, since the Framer and hpack's Decoder make
// an object for each frame and a string for each literal; the tests hold both
// against theirs.
package h2
