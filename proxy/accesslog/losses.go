// SPDX-License-Identifier: Apache-2.0

package accesslog

import "time"

// tellInterval is how often the proxy's own log speaks of a file's dropped
// lines at most.
const tellInterval = time.Minute

// losses are the lines that a sink has dropped because its file takes them too
// slowly. A goroutine of its own tells of them while there are any: the sink's
// waits for the file, and a request must wait for no log.
type losses struct {
	untold  int  // lines since they were last spoken of
	telling bool // the goroutine runs
}

// drop counts a line that isn't taken over. The caller holds mu.
func (s *sink) drop() {
	s.counts.dropped.Inc()
	if s.closed {
		return // nothing is wrong with the file
	}
	s.losses.untold++
	if !s.losses.telling {
		s.losses.telling = true
		go s.tellLosses()
	}
}

// tellLosses says that lines began to be dropped, each minute how many more
// were, and, when a minute has passed without, that it is over and how many
// they were in all. It ends a minute later, so that the next beginning is as far
// away, or with the sink.
func (s *sink) tellLosses() {
	tick := time.NewTicker(tellInterval)
	defer tick.Stop()
	total := 0 // since the beginning
	for ended := false; ; {
		lines, idle := s.takeLosses(total == 0)
		switch {
		case lines > 0:
			total += lines
			s.log.Warn("access log lines are dropped: the file takes them too slowly", "path", s.path, "lines", lines)
		case idle:
			return
		default:
			s.log.Info("access log lines are dropped no more", "path", s.path, "lines", total)
			total = 0
		}
		if ended {
			return
		}
		select {
		case <-tick.C:
		case <-s.quit:
			ended = true
		}
	}
}

// takeLosses returns how many lines were dropped since it was last called.
// idle: there were none, and quiet says that nothing is left to be told either.
// The goroutine then has to end.
func (s *sink) takeLosses(quiet bool) (lines int, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, s.losses.untold = s.losses.untold, 0
	if idle = quiet && lines == 0; idle {
		s.losses.telling = false
	}
	return lines, idle
}
