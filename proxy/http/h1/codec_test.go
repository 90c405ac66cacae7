// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pillion/proxy/http"
)

// describeRequest writes a head out as text, so that a table can say what it
// wants and two heads can be compared.
func describeRequest(h *http.RequestHead) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s host=%s", h.RawMethod, h.Path, h.Authority)
	if h.AbsoluteForm {
		fmt.Fprintf(&b, " abs=%s", h.Scheme)
	}
	fmt.Fprintf(&b, " %v %s", h.Protocol, describeFraming(h.Framing))
	if !h.KeepAlive {
		b.WriteString(" close")
	}
	if h.Expect100 {
		b.WriteString(" expect")
	}
	if h.Upgrade != nil {
		fmt.Fprintf(&b, " upgrade=%s", h.Upgrade)
	}
	fmt.Fprintf(&b, " %s@%d", h.HostName, h.HostIndex)
	b.WriteString(describeFields(&h.Fields))
	return b.String()
}

func describeResponse(h *http.ResponseHead) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %q %v %s", h.Status, h.Reason, h.Protocol, describeFraming(h.Framing))
	if !h.KeepAlive {
		b.WriteString(" close")
	}
	if h.Upgrade != nil {
		fmt.Fprintf(&b, " upgrade=%s", h.Upgrade)
	}
	b.WriteString(describeFields(&h.Fields))
	return b.String()
}

func describeFraming(f http.Framing) string {
	switch f.Kind {
	case http.BodyNone:
		return "none"
	case http.BodyLength:
		return fmt.Sprint("length=", f.Length)
	case http.BodyChunked:
		return "chunked"
	case http.BodyClose:
		return "until-close"
	}
	return "?"
}

func describeFields(f *http.Fields) string {
	var b strings.Builder
	for _, fl := range f.All() {
		fmt.Fprintf(&b, " [%s:%s]", fl.Name, fl.Value)
		if fl.ID != http.LookupHeader(fl.Name) {
			b.WriteString("(wrong number)")
		}
	}
	return b.String()
}

// parsedRequest parses raw in one go and describes head or error, and what is
// left behind the head.
func parsedRequest(raw []byte, lim *Limits) string {
	var p Parser
	var h http.RequestHead
	n, err := p.Request(raw, &h, lim)
	return requestResult(raw, n, err, &h)
}

func requestResult(raw []byte, n int, err *http.Error, h *http.RequestHead) string {
	switch {
	case err != nil:
		return fmt.Sprintf("error %d %s", err.Status, err.Detail)
	case n == 0:
		return "incomplete"
	}
	return describeRequest(h) + fmt.Sprintf(" rest=%q", raw[n:])
}

func parsedResponse(raw []byte, sent Sent, lim *Limits) string {
	var p Parser
	var h http.ResponseHead
	n, err := p.Response(raw, sent, &h, lim)
	return responseResult(raw, n, err, &h)
}

func responseResult(raw []byte, n int, err *http.Error, h *http.ResponseHead) string {
	switch {
	case err != nil:
		return fmt.Sprintf("error %d %s", err.Status, err.Detail)
	case n == 0:
		return "incomplete"
	}
	return describeResponse(h) + fmt.Sprintf(" rest=%q", raw[n:])
}

// moved returns a copy of b in memory of its own, as when a buffer grows.
func moved(b []byte) []byte { return bytes.Clone(b) }

// everySplit feeds raw cut in two at each position, and then octet by octet,
// and checks that parse, which is given ever longer prefixes and returns an
// empty string while it needs more, ends with want.
func everySplit(t *testing.T, raw []byte, want string, parse func() func(prefix []byte) string) {
	t.Helper()
	for cut := 1; cut < len(raw); cut++ {
		step := parse()
		got := step(moved(raw[:cut]))
		if got == "" {
			got = step(moved(raw))
		}
		if got = sameRest(got, want); got != want {
			t.Fatalf("cut at %d of %q:\n got %s\nwant %s", cut, raw, got, want)
		}
	}
	step, got := parse(), ""
	for i := 1; i <= len(raw) && got == ""; i++ {
		got = step(moved(raw[:i]))
	}
	if got = sameRest(got, want); got != want {
		t.Fatalf("octet by octet %q:\n got %s\nwant %s", raw, got, want)
	}
}

// sameRest lets a result off having seen fewer of the octets behind the head.
func sameRest(got, want string) string {
	g, _, ok := strings.Cut(got, " rest=")
	if w, rest, ok2 := strings.Cut(want, " rest="); ok && ok2 && g == w {
		return g + " rest=" + rest
	}
	return got
}

func splitRequest(t *testing.T, raw []byte, want string, lim *Limits) {
	t.Helper()
	everySplit(t, raw, want, func() func([]byte) string {
		var p Parser
		var h http.RequestHead
		return func(prefix []byte) string {
			n, err := p.Request(prefix, &h, lim)
			if n == 0 && err == nil {
				return ""
			}
			return requestResult(prefix, n, err, &h)
		}
	})
}

func splitResponse(t *testing.T, raw []byte, sent Sent, want string, lim *Limits) {
	t.Helper()
	everySplit(t, raw, want, func() func([]byte) string {
		var p Parser
		var h http.ResponseHead
		return func(prefix []byte) string {
			n, err := p.Response(prefix, sent, &h, lim)
			if n == 0 && err == nil {
				return ""
			}
			return responseResult(prefix, n, err, &h)
		}
	})
}
