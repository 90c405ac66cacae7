// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"fmt"
	"strings"

	"pillion/proxy/http"
)

// point is a moment in an exchange, by Envoy's names for COMMON_DURATION.
type point uint8

const (
	pointRequestStart  point = iota // DS_RX_BEG
	pointRequestEnd                 // DS_RX_END
	pointUpstreamStart              // US_TX_BEG
	pointUpstreamFirst              // US_RX_BEG
	pointEnd                        // DS_TX_END
)

var pointNames = [...]string{"DS_RX_BEG", "DS_RX_END", "US_TX_BEG", "US_RX_BEG", "DS_TX_END"}

// of returns the moment in nanoseconds, 0 if it did not come.
func (p point) of(ex *http.Exchange) int64 {
	switch p {
	case pointRequestStart:
		return ex.Start
	case pointRequestEnd:
		return ex.RequestEnd
	case pointUpstreamStart:
		return ex.UpstreamStart
	case pointUpstreamFirst:
		return ex.UpstreamFirst
	}
	return ex.End
}

// span is the time between two points, in a unit of so many nanoseconds.
type span struct {
	from, to point
	unit     int64
}

// parseSpan parses FROM:TO:UNIT.
func parseSpan(s string) (span, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return span{}, fmt.Errorf("must be FROM:TO:UNIT, as in DS_RX_BEG:DS_TX_END:ms")
	}
	var out span
	for i, to := range []*point{&out.from, &out.to} {
		found := false
		for p, name := range pointNames {
			if name == parts[i] {
				*to, found = point(p), true
			}
		}
		if !found {
			return span{}, fmt.Errorf("%s is not a moment that is recorded: it must be one of %s", parts[i], strings.Join(pointNames[:], ", "))
		}
	}
	switch parts[2] {
	case "ms":
		out.unit = 1e6
	case "us":
		out.unit = 1e3
	case "ns":
		out.unit = 1
	default:
		return span{}, fmt.Errorf("the unit %q must be ms, us or ns", parts[2])
	}
	return out, nil
}

// of returns the length of the span, false if one of its ends did not come or
// they came the other way round.
func (s span) of(ex *http.Exchange) (int64, bool) {
	from, to := s.from.of(ex), s.to.of(ex)
	if from == 0 || to == 0 || to < from {
		return 0, false
	}
	return (to - from) / s.unit, true
}

// The spans that have operators of their own, in milliseconds.
var (
	spanTotal      = span{pointRequestStart, pointEnd, 1e6}
	spanRequest    = span{pointRequestStart, pointRequestEnd, 1e6}
	spanResponse   = span{pointRequestStart, pointUpstreamFirst, 1e6}
	spanResponseTx = span{pointUpstreamFirst, pointEnd, 1e6}
)
