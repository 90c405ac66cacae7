// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"testing"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/router"
)

// TestHostReset: a host that resets a call whose time is up keeps to the client's
// deadline; one that does so before, or without a deadline of the client, fails.
func TestHostReset(t *testing.T) {
	reset := &http.Error{Side: http.SideUpstream, Kind: http.KindStreamReset, Status: 503, GRPC: 14}
	closed := &http.Error{Side: http.SideUpstream, Kind: http.KindReset, Status: 503, GRPC: 14}
	now := http.Now()
	for name, c := range map[string]struct {
		times     router.Times
		streamEnd int64
		start     int64
		err, want *http.Error
	}{
		"the client's time is up":         {router.Times{Response: time.Second, ByClient: true}, 0, now - int64(time.Second), reset, errDeadline},
		"it is not":                       {router.Times{Response: time.Hour, ByClient: true}, 0, now - int64(time.Second), reset, reset},
		"it is the route's":               {router.Times{Response: time.Second}, 0, now - int64(time.Second), reset, reset},
		"there is none":                   {router.Times{}, 0, now - int64(time.Second), reset, reset},
		"that of the stream is up":        {router.Times{Stream: time.Second, HasStream: true, ByClient: true}, now, now - int64(time.Second), reset, errMaxDuration},
		"that of the stream is not":       {router.Times{Stream: time.Hour, HasStream: true, ByClient: true}, now + int64(time.Hour), now, reset, reset},
		"the connection broke with it up": {router.Times{Response: time.Second, ByClient: true}, 0, now - int64(time.Second), closed, closed},
	} {
		t.Run(name, func(t *testing.T) {
			call := Call{ex: &http.Exchange{Start: c.start}, times: c.times, streamEnd: c.streamEnd}
			call.sent.Store(true)
			if got := call.hostReset(c.err); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
