// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"sync/atomic"

	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// messageCells are the metrics of the gRPC messages between two workloads.
type messageCells struct {
	used                atomic.Uint32 // as in cells
	requests, responses stats.Counter
}

func emitMessages(c *messageCells, s stats.SeriesScope) {
	used := c.used.Load()
	if used&1 != 0 {
		s.Counter("istio_request_messages_total", "Messages in gRPC requests.", c.requests.Value())
	}
	if used&2 != 0 {
		s.Counter("istio_response_messages_total", "Messages in gRPC responses.", c.responses.Value())
	}
}

// messageOwner gives reporters a place beside a host.
type messageOwner struct{ _ byte }

// messages leads to the counters of one exchange's messages, of which there are two
// when the metrics of both directions are labelled in different ways. Streams hold on
// to it for hours, so it finds a series that was forgotten for want of messages again.
// Safe for concurrent use.
type messages []*messageSeries

type messageSeries struct {
	plan   *plan[messageCells] // immutable
	values []string            // immutable
	series atomic.Pointer[stats.Series[messageCells]]
}

func (m *messageSeries) cells() *messageCells {
	s := m.series.Load()
	if s == nil || !s.Touch() {
		s = m.plan.family.With(m.values...)
		s.Cells.used.Or(m.plan.mask)
		m.series.Store(s)
	}
	return &s.Cells
}

// Touch and Alive make it a series for handles: it doesn't end.
func (m *messages) Touch() bool { return true }

// Alive is as Touch.
func (m *messages) Alive() bool { return true }

// requestMessages and responseMessages are the two sides of messages.
type (
	requestMessages  messages
	responseMessages messages
)

// CountMessages implements http.MessageCounter.
func (m *requestMessages) CountMessages(n uint64) {
	for _, s := range *m {
		if s.plan.mask&1 != 0 {
			s.cells().requests.Add(n)
		}
	}
}

// CountMessages implements http.MessageCounter.
func (m *responseMessages) CountMessages(n uint64) {
	for _, s := range *m {
		if s.plan.mask&2 != 0 {
			s.cells().responses.Add(n)
		}
	}
}

// messagesOf returns the counters of an exchange's messages.
func (r *reporter) messagesOf(ex *http.Exchange) *messages {
	k := key{bits: uint64(specialRoute(ex.RouteName)) << specialShift}
	r.setPeer(&k, ex)
	varied := uint64(0)
	for _, p := range r.messages {
		p.vary(&k, ex, nil)
		varied = varied*31 + k.varied
	}
	k.varied = varied
	if ex.Upstream == nil {
		return r.newMessages(ex, &k)
	}
	h, ok := ex.Upstream.Attached(&r.messageOwner).(*handles[*messages])
	if !ok {
		h = ex.Upstream.Attach(&r.messageOwner, &handles[*messages]{}).(*handles[*messages])
	}
	if m := h.find(&k); m != nil {
		return m
	}
	m := r.newMessages(ex, &k)
	h.put(k, m)
	return m
}

func (r *reporter) newMessages(ex *http.Exchange, k *key) *messages {
	m := make(messages, len(r.messages))
	for i, p := range r.messages {
		m[i] = &messageSeries{plan: p, values: p.values(r.peerValues(ex, k), ex, nil)}
	}
	return &m
}

// OnResponse begins to count the messages of a gRPC exchange, now that its
// host is known. Istio's filter reports them every five seconds; here each
// message counts when it comes by.
func (f *Filter) OnResponse(ex *http.Exchange) {
	if ex.GRPC && ex.RequestMessages.Counting() {
		f.tellMessages(ex)
	}
}

func (f *Filter) tellMessages(ex *http.Exchange) {
	m := f.reporter.messagesOf(ex)
	ex.RequestMessages.TellTo((*requestMessages)(m))
	ex.ResponseMessages.TellTo((*responseMessages)(m))
}

// finishMessages counts what is left.
func (f *Filter) finishMessages(ex *http.Exchange) {
	if ex.RequestMessages.Total()+ex.ResponseMessages.Total() == 0 {
		return
	}
	f.tellMessages(ex)
	ex.RequestMessages.Settle()
	ex.ResponseMessages.Settle()
}
