// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"log/slog"
	nethttp "net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// StatusOptions are what the status port shows and steers.
type StatusOptions struct {
	Pod       *Pod
	Proxy     Proxy
	Lifecycle *Lifecycle
	// Profiling opens /debug/pprof to the pod itself.
	Profiling bool
	Started   time.Time
	Logger    *slog.Logger
}

// Status answers on the status port, 15020, and on the port for probes, 15021,
// as Istio's agent does (istio.io/istio/pilot/cmd/pilot-agent/status).
type Status struct {
	o       StatusOptions
	merger  *merger
	probes  *appProbes
	mux     *nethttp.ServeMux
	ready   atomic.Bool // what the last probe was told
	metrics agentMetrics
}

// NewStatus returns the handlers of both ports.
func NewStatus(o StatusOptions) (*Status, error) {
	s := &Status{o: o, probes: newAppProbes(o.Pod.Probes, o.Logger), mux: nethttp.NewServeMux()}
	m, err := newMerger(o.Pod, o.Proxy, &s.metrics, o.Logger)
	if err != nil {
		return nil, err
	}
	s.merger = m
	s.mux.HandleFunc("/healthz/ready", s.serveReady)
	s.mux.HandleFunc("/stats/prometheus", s.serveMetrics)
	s.mux.HandleFunc("/metrics", s.serveMetrics)
	s.mux.HandleFunc("/quitquitquit", s.steer(o.Lifecycle.QuitNow))
	s.mux.HandleFunc("/drain", s.steer(o.Lifecycle.DrainNow))
	s.mux.Handle("/app-health/", s.probes)
	s.mux.Handle("/app-lifecycle/", s.probes)
	s.mux.HandleFunc("/debug/ndsz", own(s.serveNames))
	if o.Profiling {
		for path, h := range map[string]nethttp.HandlerFunc{"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
			s.mux.HandleFunc("/debug/pprof/"+path, own(h))
		}
	}
	return s, nil
}

// Handler is that of the status port. A page that a browser on the machine
// shows can't steer by it.
func (s *Status) Handler() nethttp.Handler {
	return nethttp.NewCrossOriginProtection().Handler(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		s.mux.ServeHTTP(w, r)
	}))
}

// ProbeHandler is that of the port for probes, which knows readiness alone.
func (s *Status) ProbeHandler() nethttp.Handler {
	return nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		// By prefix, as Envoy's listener there has it.
		if !strings.HasPrefix(r.URL.Path, "/healthz/ready") {
			answer(w, nethttp.StatusNotFound, "there is /healthz/ready\n")
			return
		}
		s.serveReady(w, r)
	})
}

// Ready returns why the proxy isn't ready; nothing when it is.
func (s *Status) Ready() []string {
	reasons := s.o.Proxy.Health().Reasons(s.o.Pod.NameTable)
	if s.o.Lifecycle.Ending() && len(reasons) == 0 {
		reasons = []string{"the proxy is draining"}
	}
	if len(reasons) == 0 {
		s.metrics.ready(s.o.Started)
	}
	return reasons
}

func (s *Status) serveReady(w nethttp.ResponseWriter, r *nethttp.Request) {
	reasons := s.Ready()
	if was := s.ready.Swap(len(reasons) == 0); was != (len(reasons) == 0) {
		if was {
			s.o.Logger.Warn("the proxy is not ready any more", "reasons", reasons)
		} else {
			s.o.Logger.Info("the proxy is ready")
		}
	}
	answerWithin(w, 5*time.Second)
	if len(reasons) == 0 {
		w.WriteHeader(nethttp.StatusOK)
		return
	}
	text := ""
	if r.URL.Query().Has("verbose") {
		text = strings.Join(reasons, "\n") + "\n"
	}
	answer(w, nethttp.StatusServiceUnavailable, text)
}

// steer serves what changes something: the pod alone may ask for it, by POST.
func (s *Status) steer(do func()) nethttp.HandlerFunc {
	return own(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.Method != nethttp.MethodPost {
			w.Header().Set("Allow", nethttp.MethodPost)
			answer(w, nethttp.StatusMethodNotAllowed, "Method Not Allowed: POST is\n")
			return
		}
		s.o.Logger.Info("asked to end", "path", r.URL.Path)
		answer(w, nethttp.StatusOK, "OK")
		_ = nethttp.NewResponseController(w).Flush() // before the process may be gone
		do()
	})
}

func (s *Status) serveMetrics(w nethttp.ResponseWriter, r *nethttp.Request) {
	if s.o.Pod.Ports.LocalMetrics && !fromPod(r) {
		answer(w, nethttp.StatusForbidden, "METRICS_LOCALHOST_ACCESS_ONLY is set: only requests from localhost are allowed\n")
		return
	}
	s.merger.serve(w, r)
}

func (s *Status) serveNames(w nethttp.ResponseWriter, _ *nethttp.Request) {
	w.Header().Set("Content-Type", "application/json")
	table, err := s.o.Proxy.NameTable()
	switch {
	case err != nil:
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		answer(w, nethttp.StatusInternalServerError, err.Error()+"\n")
	case table == nil:
		answer(w, nethttp.StatusNotFound, "{}")
	default:
		_, _ = w.Write(table) // an error means that the client is gone
	}
}

// own lets requests of the pod itself pass, and no others.
func own(next nethttp.HandlerFunc) nethttp.HandlerFunc {
	return func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if !fromPod(r) {
			answer(w, nethttp.StatusForbidden, "Only requests from localhost are allowed\n")
			return
		}
		next(w, r)
	}
}

// fromPod tells whether a request came over loopback.
func fromPod(r *nethttp.Request) bool {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && a.Addr().Unmap().IsLoopback()
}

// answer writes a short answer. An error says that the client is gone, which
// concerns nobody.
func answer(w nethttp.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	if text != "" {
		_, _ = w.Write([]byte(text))
	}
}

// answerWithin bounds the time that a client may take for the answer. An error
// means a writer without deadlines, as tests have.
func answerWithin(w nethttp.ResponseWriter, d time.Duration) {
	_ = nethttp.NewResponseController(w).SetWriteDeadline(time.Now().Add(d))
}
