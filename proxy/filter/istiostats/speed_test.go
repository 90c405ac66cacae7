// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"strings"
	"testing"

	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// typical returns a finished exchange with the head of a browser's request.
func typical() *http.Exchange {
	ex := finished(func(ex *http.Exchange) { ex.Upstream = host(reviewsV2) })
	for _, name := range strings.Fields("user-agent accept accept-encoding x-forwarded-proto x-request-id traceparent cookie authorization") {
		ex.Req.Fields.Add([]byte(name), []byte("value"))
	}
	return ex
}

func TestOnFinishDoesNotAllocate(t *testing.T) {
	for name, edit := range map[string]func(*http.Exchange){
		"host":    func(*http.Exchange) {},
		"no host": func(ex *http.Exchange) { ex.Upstream = nil },
		"gRPC": func(ex *http.Exchange) {
			ex.Req.Fields.AddID(http.HeaderContentType, []byte("application/grpc"))
			ex.RespTrailers = grpcTrailers("0")
		},
	} {
		for _, d := range []http.Direction{http.Inbound, http.Outbound} {
			f := New(productpage, d, NewFamilies(stats.NewRegistry()))
			ex := typical()
			edit(ex)
			f.OnFinish(ex)
			if n := testing.AllocsPerRun(1000, func() { f.OnFinish(ex) }); n != 0 {
				t.Errorf("%s, direction %d: %v allocations, want 0", name, d, n)
			}
		}
	}
}

func BenchmarkOnFinish(b *testing.B) {
	for _, d := range []struct {
		name      string
		direction http.Direction
	}{{"outbound", http.Outbound}, {"inbound", http.Inbound}} {
		b.Run(d.name, func(b *testing.B) {
			f := New(productpage, d.direction, NewFamilies(stats.NewRegistry()))
			ex := typical()
			ex.Conn = &http.ConnInfo{PeerPrincipal: productpage.Principal, OwnPrincipal: productpage.Principal}
			b.ReportAllocs()
			for b.Loop() {
				f.OnFinish(ex)
			}
		})
	}
}

func BenchmarkOnFinishMiss(b *testing.B) {
	f := New(productpage, http.Outbound, NewFamilies(stats.NewRegistry()))
	ex := typical()
	for i := range maxHandles {
		ex.Resp.Status = 300 + i
		f.OnFinish(ex)
	}
	ex.Resp.Status = 200
	b.ReportAllocs()
	for b.Loop() {
		f.OnFinish(ex)
	}
}
