// SPDX-License-Identifier: Apache-2.0

package http

import (
	"encoding/binary"
	"sync/atomic"
)

// grpcPrefix is the length of what stands before each gRPC message: a flag
// and the message's length (gRPC over HTTP/2, "Length-Prefixed-Message").
const grpcPrefix = 5

// GRPCMessages counts the gRPC messages in one direction of an exchange as its
// body goes by, in pieces of any size. The zero value counts nothing until
// Start. It belongs to the goroutine that carries the body, but for TellTo.
// It must not be copied once it is told whom to tell.
type GRPCMessages struct {
	on   bool
	pos  uint8        // octets of the prefix that have come
	left uint32       // of the length as far as it has come, then of the message
	n    uint64       // messages
	told uint64       // ... of which the counter knows
	to   atomic.Value // a MessageCounter
}

// MessageCounter is told of messages. Safe for concurrent use.
type MessageCounter interface{ CountMessages(n uint64) }

// Start makes Add count.
func (m *GRPCMessages) Start() { m.on = true }

// Total returns the number of messages that have begun, as Envoy counts
// (Grpc::FrameInspector).
func (m *GRPCMessages) Total() uint64 { return m.n }

// Counting reports whether Start was called.
func (m *GRPCMessages) Counting() bool { return m.on }

// TellTo makes each message count in c too, also those before it. Only the
// first call of an exchange has an effect. It comes from the exchange's
// goroutine, maybe while another one carries the body. Streams live for hours,
// and a counter that moves at their end only is of no use.
func (m *GRPCMessages) TellTo(c MessageCounter) {
	if m.to.Load() == nil {
		m.to.Store(c)
	}
}

// Settle tells the counter of what it doesn't know yet. The body is over.
func (m *GRPCMessages) Settle() {
	if m.n == m.told {
		return
	}
	if c, ok := m.to.Load().(MessageCounter); ok {
		c.CountMessages(m.n - m.told)
		m.told = m.n
	}
}

// Add takes the next piece of the body.
func (m *GRPCMessages) Add(p []byte) {
	if !m.on {
		return
	}
	for len(p) > 0 {
		switch {
		case m.pos == grpcPrefix:
			p = m.payload(p)
		case m.pos == 0 && len(p) >= grpcPrefix:
			m.n++
			m.left = binary.BigEndian.Uint32(p[1:])
			m.prefixed()
			p = p[grpcPrefix:]
		default:
			m.octet(p[0])
			p = p[1:]
		}
	}
	m.Settle()
}

// payload passes over what of p belongs to the current message.
func (m *GRPCMessages) payload(p []byte) []byte {
	if uint64(len(p)) < uint64(m.left) {
		m.left -= uint32(len(p))
		return nil
	}
	p = p[m.left:]
	m.pos = 0
	return p
}

// octet takes one octet of a prefix.
func (m *GRPCMessages) octet(c byte) {
	if m.pos == 0 {
		m.n++
		m.left = 0
	} else {
		m.left = m.left<<8 | uint32(c)
	}
	if m.pos++; m.pos == grpcPrefix {
		m.prefixed()
	}
}

// prefixed begins the message behind a prefix.
func (m *GRPCMessages) prefixed() {
	m.pos = grpcPrefix
	if m.left == 0 {
		m.pos = 0
	}
}
