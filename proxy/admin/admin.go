// SPDX-License-Identifier: Apache-2.0

// Package admin serves the pages by which people, istioctl, Kiali and Istio's
// agent look into the proxy and steer it. Paths, parameters and shapes are
// those of Envoy's admin interface, since that is what these tools know.
//
// The package knows no other part of the proxy: it says in interfaces what it
// asks, and whoever builds the proxy plugs them in.
//
// Names of clusters and hosts come from the network. They are only ever sent
// as text/plain or JSON that a browser is told not to take for anything else,
// and a web page that a browser shows can't change anything here: requests of
// another origin are refused.
package admin

import (
	"errors"
	"fmt"
	"log/slog"
	nethttp "net/http"
	"net/http/pprof"
	"net/url"
	"strings"
	"time"

	"pillion/proxy/stats"
)

// Options are what the handler shows and steers. All are needed, but for
// Logger.
type Options struct {
	Logger    *slog.Logger // nil means slog.Default
	Stats     *stats.Registry
	Info      Info
	Ready     Readiness
	Clusters  Clusters
	Listeners Listeners
	Config    Config
	Certs     Certificates // nil: there are none
	Lifecycle Lifecycle
	Loggers   *Levels
}

// handler answers the requests to the admin port. It is immutable but for
// scrapes.
type handler struct {
	Options
	pages   map[string]*page
	help    string
	scrapes slots
}

// NewHandler returns the handler of the admin port.
func NewHandler(o Options) nethttp.Handler {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	h := &handler{Options: o, pages: map[string]*page{}, scrapes: newSlots()}
	pages := h.allPages()
	for i := range pages {
		h.pages[pages[i].path] = &pages[i]
	}
	h.help = helpText(pages)
	return nethttp.NewCrossOriginProtection().Handler(h)
}

// page is one path.
type page struct {
	path   string
	help   string
	params []string // "name: what it does"
	// mutates asks for POST. Other pages take GET, and POST as Envoy does.
	mutates bool
	serve   func(w nethttp.ResponseWriter, r *nethttp.Request, q url.Values)
}

func (h *handler) allPages() []page {
	filter := "filter: a regular expression for the names wanted"
	usedOnly := "usedonly: leave out what was never written"
	return []page{
		{path: "/", help: "this list", serve: h.serveHelp},
		{path: "/certs", help: "certificates that are loaded", serve: h.serveCerts},
		{path: "/clusters", help: "clusters and their hosts", serve: h.serveClusters,
			params: []string{filter, "format: text or json"}},
		{path: "/config_dump", help: "the configuration that is served", serve: h.serveConfigDump, params: []string{
			"resource: one list of it, such as dynamic_active_clusters",
			"mask: the fields wanted, separated by commas",
			"name_regex: a regular expression for the names of resources",
			"include_eds: with the endpoints"}},
		{path: "/debug/pprof/", help: "profiles of the process, for go tool pprof", serve: servePprof},
		{path: "/drain_listeners", help: "close listeners", mutates: true, serve: h.serveDrain, params: []string{
			"graceful: wait for the drain time first",
			"inboundonly: inbound listeners only",
			"skip_exit: drain connections, keep the listeners"}},
		{path: "/healthcheck/fail", help: "be not ready", mutates: true, serve: h.setHealthy(false)},
		{path: "/healthcheck/ok", help: "be ready again", mutates: true, serve: h.setHealthy(true)},
		{path: "/help", help: "this list", serve: h.serveHelp},
		{path: "/listeners", help: "listeners and their addresses", serve: h.serveListeners, params: []string{"format: text or json"}},
		{path: "/logging", help: "show or change the levels of loggers", mutates: true, serve: h.serveLogging, params: []string{
			"level: the level of all", "paths: name1:level1,name2:level2", "<name>: the level of one"}},
		{path: "/memory", help: "memory of the process", serve: h.serveMemory},
		{path: "/quitquitquit", help: "end the process", mutates: true, serve: h.serveQuit},
		{path: "/ready", help: "200 when traffic is served, else 503", serve: h.serveReady,
			params: []string{"verbose: say what is waited for"}},
		{path: "/reset_counters", help: "set all counters to zero", mutates: true, serve: h.serveResetCounters},
		{path: "/server_info", help: "version, state and options of the process", serve: h.serveServerInfo},
		{path: "/stats", help: "all statistics", serve: h.serveStats, params: []string{filter, usedOnly,
			"format: text, json or prometheus",
			"type: All, Counters, Gauges or Histograms",
			"histogram_buckets: summary, cumulative or disjoint"}},
		{path: "/stats/prometheus", help: "all statistics for Prometheus", serve: h.servePrometheus, params: []string{filter, usedOnly}},
	}
}

func helpText(pages []page) string {
	var b strings.Builder
	b.WriteString("admin commands are:\n")
	for i := range pages {
		post := ""
		if pages[i].mutates {
			post = " (POST)"
		}
		fmt.Fprintf(&b, "  %s%s: %s\n", pages[i].path, post, pages[i].help)
		for _, p := range pages[i].params {
			fmt.Fprintf(&b, "      %s\n", p)
		}
	}
	return b.String()
}

// answerTime is how long a reader may take for an answer. Profiles take
// longer, by as much as they were asked to.
const answerTime = time.Minute

// ServeHTTP answers one request.
func (h *handler) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	setCommonHeaders(w, answerTime)
	p := h.pages[r.URL.Path]
	if p == nil && strings.HasPrefix(r.URL.Path, "/debug/pprof/") {
		p = h.pages["/debug/pprof/"]
	}
	if p == nil {
		fail(w, nethttp.StatusNotFound, "invalid path. "+h.help)
		return
	}
	if !allowed(w, r, p.mutates) {
		return
	}
	q, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, nethttp.StatusBadRequest, err.Error()+"\n")
		return
	}
	p.serve(w, r, q)
}

// setCommonHeaders sets the headers of every answer, and its deadline.
func setCommonHeaders(w nethttp.ResponseWriter, within time.Duration) {
	head := w.Header()
	head.Set("Content-Type", "text/plain; charset=UTF-8")
	head.Set("Cache-Control", "no-cache, max-age=0")
	head.Set("X-Content-Type-Options", "nosniff")
	// An error means a writer without deadlines, as tests have.
	_ = nethttp.NewResponseController(w).SetWriteDeadline(time.Now().Add(within))
}

// allowed refuses methods that a page doesn't take: whatever changes
// something has to be asked for by POST.
func allowed(w nethttp.ResponseWriter, r *nethttp.Request, mutates bool) bool {
	switch {
	case r.Method == nethttp.MethodPost,
		!mutates && (r.Method == nethttp.MethodGet || r.Method == nethttp.MethodHead):
		return true
	}
	allow := "GET, HEAD, POST"
	if mutates {
		allow = "POST"
	}
	w.Header().Set("Allow", allow)
	fail(w, nethttp.StatusMethodNotAllowed, fmt.Sprintf("Method %s not allowed, %s required.\n", r.Method, allow))
	return false
}

// maxQuery bounds the query; regular expressions are the longest part of one.
const maxQuery = 4096

// parseQuery reads a query. Unlike net/url's it takes a ';' for what it is,
// since names of Istio's statistics hold one.
func parseQuery(raw string) (url.Values, error) {
	if len(raw) > maxQuery {
		return nil, fmt.Errorf("the query has %d bytes, more than %d", len(raw), maxQuery)
	}
	q := url.Values{}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(k)
		value, err2 := url.QueryUnescape(v)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("the query can't be read: %w; write %% as %%25", err)
		}
		q.Add(name, value)
	}
	return q, nil
}

func fail(w nethttp.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	writeText(w, text)
}

// writeText writes a short answer. Its error says that the client is gone,
// which concerns nobody.
func writeText(w nethttp.ResponseWriter, text string) { _, _ = w.Write([]byte(text)) }

func (h *handler) serveHelp(w nethttp.ResponseWriter, _ *nethttp.Request, _ url.Values) {
	writeText(w, h.help)
}

// servePprof passes on to net/http/pprof.
func servePprof(w nethttp.ResponseWriter, r *nethttp.Request, q url.Values) {
	if seconds, err := time.ParseDuration(q.Get("seconds") + "s"); err == nil && seconds > 0 && seconds < time.Hour {
		setCommonHeaders(w, answerTime+seconds)
	}
	switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
	case "":
		w.Header().Del("Content-Type") // pprof.Index sends a page of fixed text
		pprof.Index(w, r)
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
}
