// SPDX-License-Identifier: Apache-2.0

// Package report turns the samples of a run into medians with their spread,
// ratios pair by pair, a text table, JSON, a chart and the verdict of a gate.
package report

import (
	"math"
	"strconv"
)

// Metric is one measured quantity; its text is its name in JSON and in gate
// files, the unit included.
type Metric string

// The metrics.
const (
	// CPU is user and system time of the peer's processes for one request.
	CPU Metric = "cpu_us_per_request"
	// CPUAlone is CPU in the same turn without what disturbs.
	CPUAlone Metric = "cpu_us_per_request_undisturbed"
	// CPUSystem is the system part of CPU.
	CPUSystem Metric = "cpu_system_us_per_request"
	// Rate is answered requests per second.
	Rate Metric = "requests_per_s"
	// Handshakes is how many TLS handshakes, each with one request, a second of the
	// peer's CPU time is enough for.
	Handshakes Metric = "handshakes_per_cpu_s"
	// RateAlone is Rate in the same turn without what disturbs, RateKept the
	// share of it, in percent, that is left with it.
	RateAlone Metric = "requests_per_s_undisturbed"
	RateKept  Metric = "rate_kept_percent"
	// CPUPerGiB is the peer's user and system time for each GiB that came
	// through, BytesRate how much came.
	CPUPerGiB Metric = "cpu_ms_per_gib"
	BytesRate Metric = "mib_per_s"
	// P50 to P999 are quantiles of the response time.
	P50  Metric = "p50_us"
	P90  Metric = "p90_us"
	P99  Metric = "p99_us"
	P999 Metric = "p99_9_us"
	// AddedP50 to AddedP999 are the quantiles less those of the direct way at
	// the same rate in the same turn.
	AddedP50  Metric = "added_p50_us"
	AddedP90  Metric = "added_p90_us"
	AddedP99  Metric = "added_p99_us"
	AddedP999 Metric = "added_p99_9_us"
	// P99Alone is P99 in the same turn without what disturbs.
	P99Alone Metric = "p99_us_undisturbed"
	// Switches are context switches of the peer's threads for one request.
	Switches Metric = "context_switches_per_request"
	// Syscalls are the peer's system calls for one request.
	Syscalls Metric = "system_calls_per_request"
	// RSS is resident memory, Anon the part of it that no file backs.
	RSS  Metric = "rss_mib"
	Anon Metric = "anonymous_mib"
	// PerConnection is what RSS grew by for one idle connection; RSSBefore,
	// RSSHeld and RSSAfter are RSS before they opened, while they were open and
	// after they closed.
	PerConnection Metric = "bytes_per_connection"
	RSSBefore     Metric = "rss_before_mib"
	RSSHeld       Metric = "rss_held_mib"
	RSSAfter      Metric = "rss_after_mib"
	// Ready is the time from the start of the program to its first right
	// answer.
	Ready Metric = "ready_ms"
	// EndpointCPU and RouteCPU are the peer's user and system time for one change
	// that a control plane sends: of a cluster's endpoints, of one route.
	EndpointCPU Metric = "cpu_ms_per_endpoint_change"
	RouteCPU    Metric = "cpu_ms_per_route_change"
)

// about describes a metric for people.
type about struct {
	title, unit string
	digits      int // after the decimal point
	higher      bool
}

// describe returns how a metric is shown; an unknown one by its own name.
func (m Metric) describe() about {
	switch m {
	case CPU:
		return about{title: "CPU per request", unit: "µs", digits: 1}
	case CPUAlone:
		return about{title: "undisturbed", unit: "µs", digits: 1}
	case P99Alone:
		return about{title: "p99 undisturbed", unit: "µs"}
	case CPUSystem:
		return about{title: "of it system", unit: "µs", digits: 1}
	case CPUPerGiB:
		return about{title: "CPU per GiB", unit: "ms", digits: 1}
	case BytesRate:
		return about{title: "throughput", unit: "MiB/s", higher: true}
	case Handshakes:
		return about{title: "handshakes", unit: "/CPU s", higher: true}
	case Rate:
		return about{title: "requests", unit: "/s", higher: true}
	case RateAlone:
		return about{title: "undisturbed", unit: "/s", higher: true}
	case RateKept:
		return about{title: "rate kept", unit: "%", digits: 1, higher: true}
	case P50, P90, P99, P999:
		return about{title: map[Metric]string{P50: "p50", P90: "p90", P99: "p99", P999: "p99.9"}[m], unit: "µs"}
	case AddedP50, AddedP90, AddedP99, AddedP999:
		return about{title: map[Metric]string{AddedP50: "added p50", AddedP90: "added p90", AddedP99: "added p99", AddedP999: "added p99.9"}[m], unit: "µs"}
	case Switches:
		return about{title: "switches", unit: "/req", digits: 2}
	case Syscalls:
		return about{title: "syscalls", unit: "/req", digits: 1}
	case RSS:
		return about{title: "RSS", unit: "MiB", digits: 1}
	case Anon:
		return about{title: "anonymous", unit: "MiB", digits: 1}
	case PerConnection:
		return about{title: "per connection", unit: "B"}
	case RSSBefore:
		return about{title: "RSS before", unit: "MiB", digits: 1}
	case RSSHeld:
		return about{title: "RSS held", unit: "MiB", digits: 1}
	case RSSAfter:
		return about{title: "RSS after", unit: "MiB", digits: 1}
	case EndpointCPU:
		return about{title: "CPU per endpoint change", unit: "ms", digits: 1}
	case RouteCPU:
		return about{title: "CPU per route change", unit: "ms", digits: 1}
	case Ready:
		return about{title: "ready after", unit: "ms"}
	}
	return about{title: string(m), digits: 2}
}

// heading is the title with the unit, for the head of a column.
func (m Metric) heading() string {
	a := m.describe()
	if a.unit == "" {
		return a.title
	}
	if a.unit[0] == '/' {
		return a.title + a.unit
	}
	return a.title + " " + a.unit
}

// format writes a value with the metric's digits, thousands parted by commas.
func (m Metric) format(v float64) string { return grouped(v, m.describe().digits) }

// grouped writes v with so many digits after the point.
func grouped(v float64, digits int) string {
	if math.IsNaN(v) {
		return "–"
	}
	s := strconv.FormatFloat(math.Abs(v), 'f', digits, 64)
	whole := len(s)
	if digits > 0 {
		whole -= digits + 1
	}
	var b []byte
	if v < 0 {
		b = append(b, '-')
	}
	for i := range len(s) {
		if i > 0 && i < whole && (whole-i)%3 == 0 {
			b = append(b, ',')
		}
		b = append(b, s[i])
	}
	return string(b)
}
