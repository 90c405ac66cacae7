// SPDX-License-Identifier: Apache-2.0

package admin

import (
	nethttp "net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

var sink []byte

// TestBigPagesGiveBack: pages that needed much give it back, once a minute at most.
func TestBigPagesGiveBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		size, calls := 0, 0
		b := &bigPages{
			pages:    nethttp.HandlerFunc(func(nethttp.ResponseWriter, *nethttp.Request) { sink = make([]byte, size) }),
			giveBack: func() { calls++ },
		}
		for _, step := range []struct {
			name  string
			after time.Duration
			size  int
			want  int
		}{
			{"small", 0, 1 << 10, 0},
			{"big", 0, 2 * bigPage, 1},
			{"big again soon", time.Second, 2 * bigPage, 1},
			{"small later", time.Hour, 1 << 10, 1},
			{"big later", 0, 2 * bigPage, 2},
		} {
			time.Sleep(step.after)
			size = step.size
			b.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(nethttp.MethodGet, "/", nil))
			synctest.Wait()
			if calls != step.want {
				t.Errorf("%s: memory was given back %d times, want %d", step.name, calls, step.want)
			}
		}
	})
}
