// SPDX-License-Identifier: Apache-2.0

// Package grpcstats is the filter envoy.filters.http.grpc_stats: it counts
// gRPC calls and their messages for each cluster (cluster.<name>.grpc.*), and
// has the messages counted for Istio's metrics.
//
// All methods are counted together. Envoy can keep counters for each method,
// by names that any client can make up.
package grpcstats

import (
	"bytes"
	"strconv"
	"sync"

	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// Stats are the counters of all clusters, one for a process. The zero value
// is ready; safe for concurrent use.
type Stats struct {
	clusters sync.Map // name → *cluster; names come from configuration
}

// numCodes is how many codes gRPC has; what is none of them comes last.
const numCodes = 17

type cluster struct {
	codes                     [numCodes + 1]stats.Counter
	requestMessages, messages stats.Counter // of requests, of responses
}

// Collect reports the counters under Envoy's names. statName says what a cluster is
// called there; one that is gone has none any more.
func (s *Stats) Collect(e *stats.Emitter, statName func(cluster string) (string, bool)) {
	s.clusters.Range(func(name, c any) bool {
		if shown, ok := statName(name.(string)); ok {
			c.(*cluster).collect(e.Cluster(shown))
		}
		return true
	})
}

func (c *cluster) collect(sc stats.Scope) {
	total := uint64(0)
	for code := range c.codes {
		v := c.codes[code].Value()
		if total += v; v == 0 {
			continue // Envoy has no counter for a code before it is seen
		}
		if code == numCodes {
			code = int(http.GRPCInvalid)
		}
		sc.Counter("grpc."+strconv.Itoa(code), v)
	}
	ok := c.codes[http.GRPCOK].Value()
	sc.Counter("grpc.success", ok)
	sc.Counter("grpc.failure", total-ok)
	sc.Counter("grpc.total", total)
	sc.Counter("grpc.request_message_count", c.requestMessages.Value())
	sc.Counter("grpc.response_message_count", c.messages.Value())
}

// of returns the counters of the cluster that an exchange went to, nil if it
// went to none.
func (s *Stats) of(ex *http.Exchange) *cluster {
	if ex.ClusterName == "" {
		return nil
	}
	if ex.Upstream == nil {
		return s.named(ex.ClusterName)
	}
	if c, ok := ex.Upstream.Attached(s).(*cluster); ok {
		return c
	}
	return ex.Upstream.Attach(s, s.named(ex.ClusterName)).(*cluster)
}

func (s *Stats) named(name string) *cluster {
	if c, ok := s.clusters.Load(name); ok {
		return c.(*cluster)
	}
	c, _ := s.clusters.LoadOrStore(name, &cluster{})
	return c.(*cluster)
}

// Filter counts the calls of one connection manager. Immutable.
type Filter struct{ stats *Stats }

// New compiles a configuration. warnings name what it asks for in vain.
//
// emit_filter_state needs no heed: it would keep Istio's filter from counting
// messages, and whoever has that filter wants them.
func New(cfg *grpcstatsv3.FilterConfig, s *Stats) (f *Filter, warnings []string) {
	if cfg.GetStatsForAllMethods().GetValue() {
		warnings = append(warnings, "stats_for_all_methods: calls are counted for all methods together")
	}
	if cfg.GetIndividualMethodStatsAllowlist() != nil {
		warnings = append(warnings, "individual_method_stats_allowlist: calls are counted for all methods together")
	}
	if cfg.GetEnableUpstreamStats() {
		warnings = append(warnings, "enable_upstream_stats: has no effect, see cluster.<name>.upstream_rq_time")
	}
	return &Filter{s}, warnings
}

// OnRequest has the messages of a gRPC request counted.
func (f *Filter) OnRequest(ex *http.Exchange) filter.Status {
	if ex.GRPC {
		ex.RequestMessages.Start()
	}
	return filter.Continue
}

// OnResponse has those of the response counted, if it is one of gRPC.
func (f *Filter) OnResponse(ex *http.Exchange) {
	if ex.GRPC && ex.Resp.IsGRPC(false) {
		ex.ResponseMessages.Start()
	}
}

// OnFinish counts the call. Like Envoy it leaves out what isn't called by a
// path of the form /service/method, and calls that ended without a status.
func (f *Filter) OnFinish(ex *http.Exchange) {
	path := ex.OriginalPath
	if path == nil {
		path = ex.Req.Path
	}
	if !ex.GRPC || !callsMethod(path) || !ex.RequestMessages.Counting() {
		return // the last: a filter before this one has answered
	}
	c := f.stats.of(ex)
	if c == nil {
		return
	}
	c.requestMessages.Add(ex.RequestMessages.Total())
	c.messages.Add(ex.ResponseMessages.Total())
	if code, ok := status(ex); ok {
		if code == http.GRPCInvalid {
			code = numCodes
		}
		c.codes[code].Inc()
	}
}

func status(ex *http.Exchange) (http.GRPCCode, bool) {
	if code, ok := ex.Resp.Fields.GRPCStatus(); ok || ex.RespTrailers == nil {
		return code, ok
	}
	return ex.RespTrailers.GRPCStatus()
}

// callsMethod reports whether a path has exactly two segments.
func callsMethod(path []byte) bool {
	path, _, _ = bytes.Cut(path, []byte("?"))
	segments := 0
	for i, c := range path {
		if c != '/' && (i == 0 || path[i-1] == '/') {
			segments++
		}
	}
	return segments == 2
}
