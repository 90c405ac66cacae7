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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// cells are the metrics of one label set.
type cells struct {
	used          atomic.Uint32 // the metrics that are reported, by their bits
	requests      stats.Counter
	duration      stats.Timing
	requestBytes  stats.Histogram
	responseBytes stats.Histogram
}

func emit(c *cells, s stats.SeriesScope) {
	used := c.used.Load()
	if used&1 != 0 {
		s.Counter("istio_requests_total", "Requests that are over.", c.requests.Value())
	}
	if used&2 != 0 {
		s.Histogram("istio_request_duration_milliseconds", "Time from a request's head to the last byte of its response.", &c.duration)
	}
	if used&4 != 0 {
		s.Histogram("istio_request_bytes", "Size of requests with their heads.", &c.requestBytes)
	}
	if used&8 != 0 {
		s.Histogram("istio_response_bytes", "Size of responses with their heads.", &c.responseBytes)
	}
}

// Service is a destination service in the words of Istio's metric labels.
type Service struct{ Host, Name, Namespace string }

// Families are the metrics themselves, one for a process: filters come and go
// with configuration, what they counted stays.
type Families struct {
	registry *stats.Registry              // immutable
	config   stats.FamilyConfig           // of each family but for its labels; immutable
	version  string                       // immutable after NewFamilies
	services func(string) (Service, bool) // immutable after NewFamilies; may be nil

	mu        sync.Mutex
	reporters map[reporterID]*reporter // guarded by mu

	// Those that have certain labels, by their names.
	famMu    sync.Mutex
	series   map[string]*stats.Family[cells]        // guarded by famMu
	messages map[string]*stats.Family[messageCells] // guarded by famMu
	tcp      map[string]*stats.Family[tcpCells]     // guarded by famMu
	sweeps   []func(context.Context)                // Run of each; guarded by famMu
	start    func(sweep func(context.Context))      // nil before Run; guarded by famMu
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
	s := settings{version: unknown}
	for _, o := range options {
		o(&s)
	}
	f := &Families{
		registry:  r,
		config:    s.family,
		version:   s.version,
		services:  s.services,
		reporters: map[reporterID]*reporter{},
		series:    map[string]*stats.Family[cells]{},
		messages:  map[string]*stats.Family[messageCells]{},
		tcp:       map[string]*stats.Family[tcpCells]{},
	}
	f.requestFamily(labelNames())
	f.messageFamily(labelNames()[:numPeerLabels])
	f.tcpFamily(tcpLabelNames())
	r.Add(stats.SourceFunc(f.emitBuild))
	return f
}

func (f *Families) requestFamily(labels []string) *stats.Family[cells] {
	return familyOf(f, f.series, "istio_requests", labels, emit)
}

func (f *Families) messageFamily(labels []string) *stats.Family[messageCells] {
	return familyOf(f, f.messages, "istio_messages", labels, emitMessages)
}

func (f *Families) tcpFamily(labels []string) *stats.Family[tcpCells] {
	return familyOf(f, f.tcp, "istio_tcp", labels, emitTCP)
}

// familyOf returns the one family of a group with those labels: two of them would
// report a label set twice. A change of configuration makes another one, whose
// predecessor goes on being reported until nobody has used it for its time.
func familyOf[C any](f *Families, all map[string]*stats.Family[C], name string, labels []string, emit func(*C, stats.SeriesScope)) *stats.Family[C] {
	f.famMu.Lock()
	defer f.famMu.Unlock()
	key := strings.Join(labels, ",")
	if x := all[key]; x != nil {
		return x
	}
	cfg := f.config
	cfg.Name, cfg.Labels = name, labels
	x := stats.NewFamily(cfg, emit)
	all[key] = x
	f.registry.Add(x)
	f.sweeps = append(f.sweeps, x.Run)
	if f.start != nil {
		f.start(x.Run)
	}
	return x
}

// Run forgets label sets that nobody uses any more, until ctx ends. It runs once.
func (f *Families) Run(ctx context.Context) {
	var all sync.WaitGroup
	f.famMu.Lock()
	f.start = func(sweep func(context.Context)) { all.Go(func() { sweep(ctx) }) }
	for _, sweep := range f.sweeps {
		f.start(sweep)
	}
	f.famMu.Unlock()
	<-ctx.Done()
	f.famMu.Lock()
	f.start = nil
	f.famMu.Unlock()
	all.Wait()
}

// Len returns the number of label sets of requests.
func (f *Families) Len() (n int) {
	f.famMu.Lock()
	defer f.famMu.Unlock()
	for _, x := range f.series {
		n += x.Len()
	}
	return n
}

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
func (f *Families) reporter(id reporterID, l *labelling) *reporter {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.reporters[id]
	if r == nil {
		r = newReporter(id, l, f)
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
	return NewWith(Options{}, own, direction, families)
}

// NewWith is New with what a configuration asks for.
func NewWith(o Options, own http.Peer, direction http.Direction, families *Families) *Filter {
	id := reporterID{own: own, inbound: direction == http.Inbound}
	if o.labels != nil {
		id.labels = o.labels.key
	}
	return &Filter{families.reporter(id, o.labels)}
}

// OnFinish counts the exchange.
func (f *Filter) OnFinish(ex *http.Exchange) {
	end := ex.End
	if end == 0 {
		end = http.Now() // it broke off before its last byte
	}
	k := f.reporter.key(ex)
	for _, p := range f.reporter.requests {
		k.varied = 0
		c := &f.reporter.find(p, ex, &k).Cells
		if p.mask&1 != 0 {
			c.requests.Inc()
		}
		if p.mask&2 != 0 {
			c.duration.Record(end - ex.Start)
		}
		if p.mask&4 != 0 {
			c.requestBytes.Record(ex.RequestHeadBytes + ex.RequestBodyBytes)
		}
		if p.mask&8 != 0 {
			c.responseBytes.Record(ex.ResponseHeadBytes + ex.ResponseBodyBytes)
		}
	}
	f.finishMessages(ex)
}
