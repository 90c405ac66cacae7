// SPDX-License-Identifier: Apache-2.0

package h2

import "pillion/proxy/stats"

// Stats count what connections of one cluster, or all of the clients, saw,
// under Envoy's names (source/common/http/http2/codec_stats.h). All are atomics.
type Stats struct {
	RxReset, TxReset           stats.Counter
	RxMessagingError           stats.Counter // a message that breaks RFC 9113 section 8
	HeaderOverflow             stats.Counter // a head beyond its limits
	Trailers                   stats.Counter
	GoAwaySent                 stats.Counter
	OutboundControlFlood       stats.Counter // replies that the peer asks for and doesn't read
	InboundEmptyFramesFlood    stats.Counter
	InboundPriorityFramesFlood stats.Counter
	InboundWindowUpdateFlood   stats.Counter
	InboundControlFlood        stats.Counter // PING, SETTINGS and unknown frames; ours
	ResetFlood                 stats.Counter // too many streams reset; ours
	KeepaliveTimeout           stats.Counter
	HeadersAfterGoAway         stats.Counter // ours
	ConnError                  stats.Counter // connections ended for breaking the protocol; ours
	StreamsActive              stats.Gauge
	PendingSend                stats.Gauge // octets in queues of streams
}

// Counters calls f for each counter, with the last part of its name.
func (s *Stats) Counters(f func(name string, value uint64)) {
	for _, c := range [...]struct {
		name string
		of   *stats.Counter
	}{
		{"rx_reset", &s.RxReset}, {"tx_reset", &s.TxReset}, {"rx_messaging_error", &s.RxMessagingError},
		{"header_overflow", &s.HeaderOverflow}, {"trailers", &s.Trailers}, {"goaway_sent", &s.GoAwaySent},
		{"outbound_control_flood", &s.OutboundControlFlood}, {"inbound_empty_frames_flood", &s.InboundEmptyFramesFlood},
		{"inbound_priority_frames_flood", &s.InboundPriorityFramesFlood},
		{"inbound_window_update_frames_flood", &s.InboundWindowUpdateFlood},
		{"inbound_control_frames_flood", &s.InboundControlFlood}, {"reset_flood", &s.ResetFlood},
		{"keepalive_timeout", &s.KeepaliveTimeout}, {"headers_after_goaway", &s.HeadersAfterGoAway},
		{"connection_error", &s.ConnError},
	} {
		f(c.name, c.of.Value())
	}
}

// Gauges calls f for each gauge, with the last part of its name.
func (s *Stats) Gauges(f func(name string, value int64)) {
	f("streams_active", s.StreamsActive.Value())
	f("pending_send_bytes", s.PendingSend.Value())
}
