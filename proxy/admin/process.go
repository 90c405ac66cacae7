// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	nethttp "net/http"
	"net/url"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"pillion/proxy/stats"
)

// serveReady answers what load balancers and Istio's agent ask.
func (h *handler) serveReady(w nethttp.ResponseWriter, _ *nethttp.Request, q url.Values) {
	state := h.Ready.State()
	if state != stats.StateLive {
		w.WriteHeader(nethttp.StatusServiceUnavailable)
	}
	var b strings.Builder
	b.WriteString(state.String() + "\n")
	if q.Has("verbose") {
		for _, what := range h.Ready.WaitingFor() {
			b.WriteString("waiting for " + what + "\n")
		}
	}
	writeText(w, b.String())
}

func (h *handler) serveServerInfo(w nethttp.ResponseWriter, _ *nethttp.Request, _ url.Values) {
	up := durationpb.New(time.Since(h.Info.Started).Truncate(time.Second))
	serveMessage(w, &adminv3.ServerInfo{
		Version:            h.Info.Version,
		State:              adminv3.ServerInfo_State(h.Ready.State()),
		UptimeCurrentEpoch: up,
		UptimeAllEpochs:    up,
		HotRestartVersion:  "disabled",
		CommandLineOptions: h.Info.Options,
		Node:               h.Info.Node(),
	})
}

func (h *handler) serveMemory(w nethttp.ResponseWriter, _ *nethttp.Request, _ url.Values) {
	m := stats.ReadMemory()
	serveMessage(w, &adminv3.Memory{
		Allocated:          m.Allocated,
		HeapSize:           m.HeapSize,
		PageheapUnmapped:   m.Unmapped,
		PageheapFree:       m.Free,
		TotalPhysicalBytes: m.Physical,
	})
}

func serveMessage(w nethttp.ResponseWriter, m proto.Message) {
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	defer out.Flush()
	j := newJSON(out)
	j.message(m)
	j.line()
}

func (h *handler) serveDrain(w nethttp.ResponseWriter, _ *nethttp.Request, q url.Values) {
	o := DrainOptions{Graceful: q.Has("graceful"), InboundOnly: q.Has("inboundonly"), SkipExit: q.Has("skip_exit")}
	h.Logger.Info("admin: draining listeners", "graceful", o.Graceful, "inbound_only", o.InboundOnly, "skip_exit", o.SkipExit)
	h.Lifecycle.Drain(o)
	writeText(w, "OK\n")
}

func (h *handler) serveQuit(w nethttp.ResponseWriter, _ *nethttp.Request, _ url.Values) {
	h.Logger.Info("admin: asked to quit")
	// The answer leaves before the process may.
	w.Header().Set("Connection", "close")
	writeText(w, "OK\n")
	_ = nethttp.NewResponseController(w).Flush() // fails only where there is nothing to flush
	h.Lifecycle.Quit()
}

func (h *handler) setHealthy(healthy bool) func(nethttp.ResponseWriter, *nethttp.Request, url.Values) {
	return func(w nethttp.ResponseWriter, _ *nethttp.Request, _ url.Values) {
		h.Logger.Info("admin: health changed", "healthy", healthy)
		h.Lifecycle.SetHealthy(healthy)
		writeText(w, "OK\n")
	}
}

func (h *handler) serveResetCounters(w nethttp.ResponseWriter, _ *nethttp.Request, _ url.Values) {
	h.Stats.ResetCounters()
	writeText(w, "OK\n")
}
