// SPDX-License-Identifier: Apache-2.0

// Package istiostats is the filter istio.stats: it counts each request in
// Istio's standard metrics, with the labels by which dashboards, Kiali and
// progressive delivery find it.
//
// Names, order of labels and fall-backs are those of Istio's own filter
// (istio/proxy: source/extensions/filters/http/istio_stats), with one
// exception: a Host header never becomes a label value. Istio falls back to it
// where configuration names no service, which lets any client make as many
// series as it likes; here the name comes from the cluster or is "unknown".
package istiostats

import (
	"context"
	"sync"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// cells are the metrics of one label set.
type cells struct {
	requests      stats.Counter
	duration      stats.Timing
	requestBytes  stats.Histogram
	responseBytes stats.Histogram
}

func emit(c *cells, s stats.SeriesScope) {
	s.Counter("istio_requests_total", "Requests that are over.", c.requests.Value())
	s.Histogram("istio_request_duration_milliseconds", "Time from a request's head to the last byte of its response.", &c.duration)
	s.Histogram("istio_request_bytes", "Size of requests with their heads.", &c.requestBytes)
	s.Histogram("istio_response_bytes", "Size of responses with their heads.", &c.responseBytes)
}

// Service is a destination service in the words of Istio's metric labels.
type Service struct{ Host, Name, Namespace string }

// Families are the metrics themselves, one for a process: filters come and go
// with configuration, what they counted stays.
type Families struct {
	series   *stats.Family[cells]
	messages *stats.Family[messageCells]
	tcp      *stats.Family[tcpCells]
	version  string                       // immutable after NewFamilies
	services func(string) (Service, bool) // immutable after NewFamilies; may be nil

	mu        sync.Mutex
	reporters map[reporterID]*reporter // guarded by mu
}

// Option changes what NewFamilies makes.
type Option func(*settings)

type settings struct {
	family   stats.FamilyConfig
	version  string
	services func(cluster string) (Service, bool)
}

// WithVersion sets the version in istio_build; without it, it is "unknown".
func WithVersion(v string) Option { return func(s *settings) { s.version = v } }

// WithLimits sets how long an unused label set is kept and how many there may
// be, as in stats.FamilyConfig.
func WithLimits(ttl time.Duration, series int) Option {
	return func(s *settings) { s.family.TTL, s.family.MaxSeries = ttl, series }
}

// WithServices sets where the service of a cluster is looked up for requests
// that never got a host. Without it, and for clusters that it doesn't know,
// the service is read from a name of Istio's form. It is called once for each
// label set and must be safe for concurrent use.
func WithServices(lookup func(cluster string) (Service, bool)) Option {
	return func(s *settings) { s.services = lookup }
}

// NewFamilies makes the metrics and adds them to r. Run has to run.
func NewFamilies(r *stats.Registry, options ...Option) *Families {
	s := settings{family: stats.FamilyConfig{Name: "istio_requests", Labels: labelNames()}, version: unknown}
	for _, o := range options {
		o(&s)
	}
	messages := s.family
	messages.Name, messages.Labels = "istio_messages", labelNames()[:numPeerLabels]
	tcp := s.family
	tcp.Name, tcp.Labels = "istio_tcp", tcpLabelNames()
	f := &Families{
		tcp:       stats.NewFamily(tcp, emitTCP),
		series:    stats.NewFamily(s.family, emit),
		messages:  stats.NewFamily(messages, emitMessages),
		version:   s.version,
		services:  s.services,
		reporters: map[reporterID]*reporter{},
	}
	r.Add(f.series)
	r.Add(f.messages)
	r.Add(f.tcp)
	r.Add(stats.SourceFunc(f.emitBuild))
	return f
}

// Run forgets label sets that nobody uses any more, until ctx ends.
func (f *Families) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { f.messages.Run(ctx) })
	all.Go(func() { f.tcp.Run(ctx) })
	f.series.Run(ctx)
	all.Wait()
}

// Len returns the number of label sets of requests.
func (f *Families) Len() int { return f.series.Len() }

func (f *Families) emitBuild(e *stats.Emitter) {
	e.Emit(stats.Metric{
		Name: "istiocustom.istio_build.component.proxy.tag." + f.version, Prom: "istio_build", Raw: true,
		Labels: []stats.Label{{Name: "component", Value: "proxy"}, {Name: "tag", Value: f.version}},
		Kind:   stats.KindGauge, Value: 1,
	})
}

// reporter returns the one reporter for a workload and a side, which outlives
// the filters that use it: what hosts have attached is keyed by it, so a new
// filter of an update finds the handles of the old one.
func (f *Families) reporter(id reporterID) *reporter {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.reporters[id]
	if r == nil {
		r = newReporter(id, f)
		f.reporters[id] = r
	}
	return r
}

// Filter counts the requests of one listener. It implements
// filter.ResponseFilter and filter.FinishFilter, is immutable, and is safe for concurrent use.
type Filter struct{ reporter *reporter }

// New returns a filter of the workload own. Requests on an inbound listener
// are reported by the destination, all others by the source.
func New(own http.Peer, direction http.Direction, families *Families) *Filter {
	return &Filter{families.reporter(reporterID{own: own, inbound: direction == http.Inbound})}
}

// OnFinish counts the exchange.
func (f *Filter) OnFinish(ex *http.Exchange) {
	end := ex.End
	if end == 0 {
		end = http.Now() // it broke off before its last byte
	}
	c := &f.reporter.find(ex).Cells
	c.requests.Inc()
	c.duration.Record(end - ex.Start)
	c.requestBytes.Record(ex.RequestHeadBytes + ex.RequestBodyBytes)
	c.responseBytes.Record(ex.ResponseHeadBytes + ex.ResponseBodyBytes)
	f.finishMessages(ex)
}
