// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"time"

	"pillion/proxy/stats"
)

// The limits on what a peer may have us do for nothing. Each counts against
// what was useful meanwhile, so that a busy connection never meets them.
const (
	// controlRate is how many PING, SETTINGS, PRIORITY, WINDOW_UPDATE and
	// unknown frames may come in a second, beyond twice the HEADERS and DATA
	// that came in it and ten times the DATA that we sent (Envoy:
	// max_inbound_window_update_frames_per_data_frame_sent).
	controlRate = 1000
	// emptyLimit bounds frames without content in a row.
	emptyLimit = 100
	// resetLimit bounds the streams that end in a reset, whichever side resets
	// them, when they are more than half of all (Envoy closes at 500 with half
	// of them premature; CVE-2023-44487, CVE-2025-8671).
	resetLimit = 200
	// continuationLimit bounds the frames of one header block
	// (CVE-2024-27919).
	continuationLimit = 32
)

// budget counts what a peer does for nothing. It is owned by the reader.
type budget struct {
	second           int64 // that control and useful count for
	control, useful  int
	sentBefore       uint32 // DATA frames that we had sent when it began
	empty            int    // frames without content in a row
	streams, aborted int
}

// controlFrame charges a frame that carries no part of a message. sent is how
// many DATA frames we have sent so far.
func (b *budget) controlFrame(now int64, sent uint32, flood *stats.Counter) *connError {
	if s := now / int64(time.Second); s != b.second {
		b.second, b.control, b.useful, b.sentBefore = s, 0, 0, sent
	}
	if b.control++; b.control > controlRate+2*b.useful+10*int(sent-b.sentBefore) {
		flood.Inc()
		return errFlood
	}
	return nil
}

// charge is controlFrame with what the connection has sent.
func (c *Conn) charge(now int64, flood *stats.Counter) *connError {
	return c.budget.controlFrame(now, c.sentData.Load(), flood)
}

// content credits a frame of a message, or charges it if it is empty.
func (b *budget) content(n int, flood *stats.Counter) *connError {
	if n > 0 {
		b.empty = 0
		b.useful++
		return nil
	}
	if b.empty++; b.empty > emptyLimit {
		flood.Inc()
		return errFlood
	}
	return nil
}

// reset charges a stream that was reset before its time.
func (b *budget) reset(flood *stats.Counter) *connError {
	if b.aborted++; b.aborted > resetLimit && 2*b.aborted > b.streams {
		flood.Inc()
		return errResetFlood
	}
	return nil
}
