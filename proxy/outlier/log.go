// SPDX-License-Identifier: Apache-2.0

package outlier

import (
	"log/slog"
	"time"
)

// event is one line of the log: what Envoy writes to its outlier event log,
// with the numbers that led to it.
type event struct {
	kind    eventKind
	host    *Host
	address string
	why     string        // the check, or why the host is back
	limit   uint32        // threshold of the check
	time    time.Duration // of the ejection: to come, or passed

	ejections, recent uint32 // of the host
	out, all          int    // hosts of the cluster
}

type eventKind uint8

const (
	ejected eventKind = iota
	refused
	restored
)

// note keeps an event, filled in with the state of now, until unlock. mu is
// held.
func (d *Detector) note(e event) {
	if d.opts.Logger == nil {
		return
	}
	for _, m := range d.members {
		if m.Host == e.host {
			e.address = m.Address
		}
	}
	e.ejections, e.recent = e.host.total, e.host.recent
	e.out, e.all = d.active, len(d.members)
	d.events = append(d.events, e)
}

// unlock releases mu and then logs, because a log may block.
func (d *Detector) unlock() {
	events := d.events
	d.events = nil
	d.mu.Unlock()
	for i := range events {
		e := &events[i]
		log := d.opts.Logger.With("cluster", d.opts.Cluster, "host", e.address)
		hosts := slog.Group("hosts", "out", e.out, "all", e.all)
		switch e.kind {
		case ejected:
			log.Warn("outlier: host ejected", "reason", e.why, "threshold", e.limit, "for", e.time,
				"ejections", e.ejections, "recent", e.recent, hosts)
		case refused:
			// A cluster whose hosts all fail would write this all the time;
			// the counter ejections_overflow says it too.
			log.Debug("outlier: host stays in, max_ejection_percent is reached", "reason", e.why,
				"threshold", e.limit, hosts)
		case restored:
			log.Info("outlier: host is back", "why", e.why, "after", e.time,
				"ejections", e.ejections, "recent", e.recent, hosts)
		}
	}
}
