// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"time"

	"pillion/bench/load"
	"pillion/bench/peer"
	"pillion/bench/proc"
	"pillion/bench/report"
)

// window is the accounting around one load on one peer.
type window struct {
	r       *peer.Running
	origins []int // processes
	before  readings
}

// readings are the clocks at one end of a window.
type readings struct {
	at                       time.Time
	peer                     proc.Usage
	origin, self, everything time.Duration
}

// openWindow starts a window.
func (b *Bench) openWindow(r *peer.Running) (window, error) {
	w := window{r: r, origins: []int{b.origin.Process.PID()}}
	if b.sealed != nil {
		w.origins = append(w.origins, b.sealed.Process.PID())
	}
	var err error
	w.before, err = w.read()
	return w, err
}

// read reads all clocks, the peer's closest to the load.
func (w window) read() (readings, error) {
	var v readings
	var err error
	if v.everything, err = proc.HostBusy(); err != nil {
		return v, err
	}
	for _, pid := range w.origins {
		o, err := proc.ReadUsage(pid)
		if err != nil {
			return v, err
		}
		v.origin += o.CPU
	}
	if v.self, err = proc.SelfCPU(); err != nil {
		return v, err
	}
	for _, p := range w.r.Processes() {
		u, err := proc.ReadUsage(p.PID())
		if err != nil {
			return v, err
		}
		v.peer = v.peer.Add(u)
	}
	v.at = time.Now()
	return v, nil
}

// close ends the window and returns the sample of what the load did in it.
func (w window) close(res load.Result) (report.Sample, error) {
	after, err := w.read()
	if err != nil {
		return report.Sample{}, err
	}
	s := report.Sample{Peer: w.r.Peer.Name(), Errors: res.Errors.Total(), Values: values(res)}
	if s.Errors > 0 {
		s.ErrorKinds = res.Errors.String()
	}
	used := after.peer.Sub(w.before.peer)
	ours := used.CPU + after.origin - w.before.origin + after.self - w.before.self + res.DriverCPU
	s.Elsewhere = max(0, (after.everything-w.before.everything-ours).Seconds()/after.at.Sub(w.before.at).Seconds())
	if w.r.Process == nil {
		return s, nil
	}
	if n := float64(res.Bytes) / (1 << 30); n > 0 {
		s.Values[report.CPUPerGiB] = used.CPU.Seconds() * 1000 / n
	}
	if n := float64(res.Requests); n > 0 {
		s.Values[report.CPU] = micros(used.CPU) / n
		s.Values[report.CPUSystem] = micros(used.System) / n
		s.Values[report.Switches] = float64(used.Voluntary+used.Involuntary) / n
	}
	return s, addMemory(&s, w.r)
}

// values are what a load itself found.
func values(res load.Result) map[report.Metric]float64 {
	if res.Bytes > 0 {
		return map[report.Metric]float64{report.BytesRate: mib(res.Bytes) / res.Duration.Seconds()}
	}
	return map[report.Metric]float64{
		report.Rate: res.Rate(),
		report.P50:  micros(res.Latency.P50),
		report.P90:  micros(res.Latency.P90),
		report.P99:  micros(res.Latency.P99),
		report.P999: micros(res.Latency.P999),
	}
}

// addMemory adds the peer's memory as it is now.
func addMemory(s *report.Sample, r *peer.Running) error {
	m, err := memory(r)
	s.Values[report.RSS] = mib(m.RSS)
	s.Values[report.Anon] = mib(m.Anon)
	return err
}

// memory is that of all of a peer's programs.
func memory(r *peer.Running) (proc.Memory, error) {
	var sum proc.Memory
	for _, p := range r.Processes() {
		m, err := proc.ReadMemory(p.PID())
		if err != nil {
			return sum, err
		}
		sum.RSS += m.RSS
		sum.Anon += m.Anon
	}
	return sum, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
