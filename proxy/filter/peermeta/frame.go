// SPDX-License-Identifier: Apache-2.0

package peermeta

import (
	"encoding/binary"

	"pillion/proxy/http"
)

// A frame is the magic, the length of the body, both 32 bits in network order, and
// the body (istio/proxy: metadata_exchange_initial_header.h).
const (
	magic      = 0x3D230467
	headLength = 8
)

var magicBytes = binary.BigEndian.AppendUint32(nil, magic)

// Begin implements http.PeerExchange.
func (x *Exchanger) Begin(protocol, agreed string, labels []string) (frame []byte, ok bool) {
	if agreed != protocol {
		x.Stats.NotAgreed.Inc()
		return nil, false
	}
	x.Stats.Agreed.Inc()
	if x.node.id == "" {
		return nil, true
	}
	x.Stats.Sent.Inc()
	return x.node.say(labels).frame, true
}

// Failed implements http.PeerExchange.
func (x *Exchanger) Failed() { x.Stats.BadFrame.Inc() }

// Read implements http.PeerExchange. Bytes that can't be the beginning of a frame
// are data from the first one that differs on: nobody waits for more of them.
func (x *Exchanger) Read(b []byte, principal string) http.PeerRead {
	for i := range min(len(b), len(magicBytes)) {
		if b[i] != magicBytes[i] {
			x.Stats.NoFrame.Inc()
			return http.PeerRead{}
		}
	}
	if len(b) < headLength {
		return http.PeerRead{More: true}
	}
	length := binary.BigEndian.Uint32(b[len(magicBytes):])
	if length > maxFrame {
		x.Stats.BadFrame.Inc()
		return http.PeerRead{Broken: true}
	}
	if uint32(len(b)-headLength) < length {
		return http.PeerRead{More: true}
	}
	read := http.PeerRead{Skip: headLength + int(length)}
	read.Peer = x.cache.find(b[headLength:read.Skip], principal, decodeFrame)
	if read.Peer == nil {
		x.Stats.BadFrame.Inc()
	}
	return read
}
