// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"mime"
	nethttp "net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"pillion/proxy/stats"
)

// The limits of a scrape.
const (
	maxTargetBody = 10 << 20 // of each of several targets, which is held in memory to take off its end
	maxScrapeTime = time.Minute
	scrapeTime    = 10 * time.Second // Prometheus' default, where it doesn't say
	maxScrapes    = 4                // at a time
)

// The forms of a page of metrics.
const (
	textType          = "text/plain"
	openMetricsType   = "application/openmetrics-text"
	textFormat        = textType + "; version=0.0.4; charset=utf-8"
	openMetricsFormat = openMetricsType + "; version=%s; charset=utf-8"
)

// merger makes one page of the metrics of agent, proxy and application. The
// parts are put one behind the other, the application's last, because it may end
// in the mark of OpenMetrics. A part that can't be had is counted and left out.
type merger struct {
	pod     *Pod
	proxy   Proxy
	own     *stats.Registry
	metrics *agentMetrics
	log     *slog.Logger
	client  *nethttp.Client
	slots   chan struct{}
}

func newMerger(p *Pod, proxy Proxy, m *agentMetrics, log *slog.Logger) (*merger, error) {
	g := &merger{pod: p, proxy: proxy, own: stats.NewRegistry(), metrics: m, log: log, slots: make(chan struct{}, maxScrapes)}
	g.own.Add(m)
	g.own.Add(workMetrics{proxy})
	if err := g.own.AddRuntimeAs("istio_agent_"); err != nil {
		return nil, err
	}
	g.client = &nethttp.Client{Transport: &nethttp.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 90 * time.Second,
		DisableCompression: true, MaxResponseHeaderBytes: 64 << 10}}
	return g, nil
}

// part is what one target answered; without anything if it failed.
type part struct {
	res    *nethttp.Response
	at     string
	format string
}

func (g *merger) serve(w nethttp.ResponseWriter, r *nethttp.Request) {
	if r.Method != nethttp.MethodGet && r.Method != nethttp.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, nethttp.StatusMethodNotAllowed, "Method Not Allowed: GET is\n")
		return
	}
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	case <-r.Context().Done():
		return
	}
	g.metrics.scrapes.Inc()
	within := timeout(r.Header)
	answerWithin(w, within+10*time.Second)
	ctx, cancel := context.WithTimeout(r.Context(), within)
	defer cancel()
	parts := g.ask(ctx, r.Header)
	defer func() {
		for _, p := range parts {
			if p.res != nil {
				_ = p.res.Body.Close()
			}
		}
	}()
	format := commonFormat(parts)
	w.Header().Set("Content-Type", format)
	out, done := compressed(w, r)
	defer done()
	buffered := bufio.NewWriterSize(out, 16<<10)
	defer func() { _ = buffered.Flush() }() // an error means that Prometheus is gone
	if err := g.own.Write(buffered, false, stats.Query{}); err != nil {
		g.metrics.failed.Inc()
		g.log.Warn("the scrape lacks metrics of the agent", "reason", err)
	}
	if g.pod.MergeStats {
		q, err := statsQuery(r.URL.RawQuery)
		if err == nil {
			err = g.proxy.WriteStats(buffered, q)
		}
		if err != nil {
			g.metrics.proxyFailed.Inc()
			g.log.Warn("the scrape lacks metrics of the proxy", "reason", err)
		}
	}
	g.writeParts(buffered, parts, strings.HasPrefix(format, openMetricsType))
}

// writeParts appends the application's pages, one after the other, so that no
// more than one is in memory.
func (g *merger) writeParts(w io.Writer, parts []part, openMetrics bool) {
	for _, p := range parts {
		if p.res == nil {
			continue
		}
		if len(parts) == 1 {
			g.stream(w, p)
			return // it has its own mark of the end
		}
		body, err := io.ReadAll(io.LimitReader(p.res.Body, maxTargetBody+1))
		if err == nil && len(body) > maxTargetBody {
			err = fmt.Errorf("it has more than %d bytes", maxTargetBody)
		}
		if err != nil {
			g.failed(p.at, err)
			continue
		}
		body = withoutEnd(body)
		if len(body) > 0 && body[len(body)-1] != '\n' {
			body = append(body, '\n')
		}
		if _, err := w.Write(body); err != nil {
			return // Prometheus is gone
		}
	}
	if openMetrics {
		_, _ = io.WriteString(w, "# EOF\n")
	}
}

// stream hands on the page of the only target.
func (g *merger) stream(w io.Writer, p part) {
	last := &lastByte{w: w, b: '\n'}
	if _, err := io.Copy(last, p.res.Body); err != nil {
		g.failed(p.at, err)
	}
	if last.b != '\n' {
		_, _ = io.WriteString(w, "\n") // a page has to end in a line's end
	}
}

// lastByte hands on and remembers the last octet.
type lastByte struct {
	w io.Writer
	b byte
}

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.b = p[len(p)-1]
	}
	return l.w.Write(p)
}

// failed notes that a target's metrics are not on the page, or not all of them.
func (g *merger) failed(target string, err error) {
	g.metrics.appFailed.Inc()
	g.log.Warn("the scrape lacks metrics of the application", "target", target, "reason", err)
}

// ask asks all targets of the application at once, and returns when each has
// begun to answer.
func (g *merger) ask(ctx context.Context, from nethttp.Header) []part {
	if g.pod.Scrape == nil {
		return nil
	}
	targets := g.pod.Scrape.Targets
	accept := acceptable(from.Get("Accept"))
	parts := make([]part, len(targets))
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() {
			at := "http://localhost:" + strconv.Itoa(t.Port) + t.Path
			res, err := g.get(ctx, at, from, accept)
			if err != nil {
				g.failed(at, err)
				return
			}
			parts[i] = part{res: res, at: at, format: formatOf(res.Header.Get("Content-Type"))}
		})
	}
	all.Wait()
	return parts
}

func (g *merger) get(ctx context.Context, at string, from nethttp.Header, accept string) (*nethttp.Response, error) {
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	for _, name := range []string{"User-Agent", "X-Prometheus-Scrape-Timeout-Seconds"} {
		if v := from.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	res, err := g.client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != nethttp.StatusOK {
		_ = res.Body.Close()
		return nil, fmt.Errorf("status %s", res.Status)
	}
	return res, nil
}

// timeout is the time that Prometheus gives for a scrape.
func timeout(h nethttp.Header) time.Duration {
	s, err := strconv.ParseFloat(h.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || math.IsNaN(s) || s <= 0 {
		return scrapeTime
	}
	return time.Duration(min(s, maxScrapeTime.Seconds()) * float64(time.Second))
}

// acceptable cuts an Accept to the forms that can stand behind ours: text and
// OpenMetrics. Protobuf can't. Wildcards are taken for the plainest form.
func acceptable(accept string) string {
	var out []string
	add := func(form string) {
		for _, o := range out {
			if o == form {
				return
			}
		}
		out = append(out, form)
	}
	for item := range strings.SplitSeq(accept, ",") {
		kind, params, err := mime.ParseMediaType(item)
		if err != nil {
			continue
		}
		delete(params, "q") // the order says the same
		switch kind {
		case textType, openMetricsType:
			add(mime.FormatMediaType(kind, params))
		case "*/*", "text/*":
			add(textType + "; version=0.0.4")
		case "application/*":
			add(openMetricsType + "; version=0.0.1")
		}
	}
	if len(out) == 0 {
		return textType + "; version=0.0.4"
	}
	for i := range out {
		out[i] += fmt.Sprintf(";q=%.3f", 1-float64(i)/float64(len(out)+1))
	}
	return strings.Join(out, ",")
}

// formatOf is the form that an answer's Content-Type names; text if none.
func formatOf(contentType string) string {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != openMetricsType {
		return textFormat
	}
	switch v := params["version"]; v {
	case "1.0.0", "0.0.1":
		return fmt.Sprintf(openMetricsFormat, v)
	case "":
		return fmt.Sprintf(openMetricsFormat, "0.0.1")
	}
	return textFormat
}

// commonFormat is the form of the page: the application's, or text where its
// targets don't agree.
func commonFormat(parts []part) string {
	format := ""
	for _, p := range parts {
		switch {
		case p.format == "" || p.format == format:
		case format == "":
			format = p.format
		default:
			return textFormat
		}
	}
	return orDefault(format, textFormat)
}

// withoutEnd takes OpenMetrics' mark of the end off a page.
func withoutEnd(body []byte) []byte {
	trimmed := bytes.TrimRight(body, " \t\r\n")
	if cut, ok := bytes.CutSuffix(trimmed, []byte("# EOF")); ok && (len(cut) == 0 || cut[len(cut)-1] == '\n') {
		return cut
	}
	return body
}

// statsQuery reads what of the proxy's metrics is wanted. A ';' is part of
// names of Istio's statistics.
func statsQuery(raw string) (q stats.Query, err error) {
	const most = 4096
	if len(raw) > most {
		return q, fmt.Errorf("the query has %d bytes, more than %d", len(raw), most)
	}
	for pair := range strings.SplitSeq(raw, "&") {
		k, v, _ := strings.Cut(pair, "=")
		switch k {
		case "usedonly":
			q.UsedOnly = true
		case "filter":
			if v, err = url.QueryUnescape(v); err != nil {
				return q, err
			}
			if q.Filter, err = regexp.Compile(v); err != nil {
				return q, fmt.Errorf("the query's filter: %w", err)
			}
		}
	}
	return q, nil
}

// compressed wraps w in gzip where the client takes it.
func compressed(w nethttp.ResponseWriter, r *nethttp.Request) (out io.Writer, done func()) {
	w.Header().Add("Vary", "Accept, Accept-Encoding")
	if !acceptsGzip(r.Header) {
		return w, func() {}
	}
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	return z, func() { _ = z.Close() } // an error means that the client is gone
}

// acceptsGzip reports whether gzip is among the codings that a client takes
// (RFC 9110 section 12.5.3).
func acceptsGzip(h nethttp.Header) bool {
	for item := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(item, ";")
		if name = strings.TrimSpace(name); !strings.EqualFold(name, "gzip") && name != "*" {
			continue
		}
		_, weight, found := strings.Cut(params, "=")
		q, err := strconv.ParseFloat(strings.TrimSpace(weight), 64)
		return !found || err == nil && q > 0
	}
	return false
}
