// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	nethttp "net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"pillion/test/rig"
)

// collector is a server that takes spans. Requests are told apart by the tag mark.
type collector struct {
	rig.SpanCollector
	addr string
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	s := httptest.NewUnstartedServer(&c.SpanCollector)
	s.Config.Protocols = new(nethttp.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(func() {
		s.Close()
		if _, wrong := c.Trace(""); len(wrong) > 0 {
			t.Errorf("messages that weren't taken: %q", wrong)
		}
	})
	c.addr = s.Listener.Addr().String()
	return c
}

// marked returns the spans so far of the request with a mark.
func (c *collector) marked(mark string) []rig.Span {
	spans, _ := c.Spans(func(s *rig.Span) bool { return s.Tags["mark"] == mark })
	return spans
}

// of waits for n spans of the request with a mark.
func (c *collector) of(t *testing.T, who, mark string, n int) (found []rig.Span) {
	t.Helper()
	rig.Until(t, fmt.Sprintf("%s sends %d spans of %s", who, n, mark), func() error {
		if found = c.marked(mark); len(found) < n {
			return fmt.Errorf("there are %d", len(found))
		}
		return nil
	})
	slices.SortFunc(found, func(a, b rig.Span) int { return strings.Compare(a.Kind+a.Name, b.Kind+b.Name) })
	return found
}
