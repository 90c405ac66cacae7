// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/wire"
)

// datedSpec are the cases of h2spec that may fail. The tool asks for what
// RFC 7540 said; each reason names what RFC 9113, which replaced it, says
// instead. Nothing about frame sizes (4.2, 6.x), malformed messages (8.1.2.x)
// or header compression may ever stand here.
var datedSpec = map[string]string{
	"http2 3.5 #2": "a port that is told from HTTP/1 by the preface has no invalid preface: what isn't one is a request of HTTP/1, " +
		"refused as such (RFC 9113 section 3.4 lets a server leave out the GOAWAY)",
	"http2 5.3.1 #1": "streams have no dependencies any more (RFC 9113 section 5.3.2); the fields are ignored",
	"http2 5.3.1 #2": "streams have no dependencies any more (RFC 9113 section 5.3.2); the fields are ignored",
}

// specCase is one line of h2spec's report.
type specCase struct {
	id, title string
	passed    bool
	detail    string // what was expected and what came, where it failed
}

// specGroups are the report's headings, by how they begin.
var specGroups = map[string]string{"Generic tests": "generic", "Hypertext Transfer": "http2", "HPACK": "hpack"}

var (
	specSection = regexp.MustCompile(`^\s*((?:\d+\.)*\d+)\. \S`)
	specResult  = regexp.MustCompile(`^\s*(✔|×) (\d+): (.*)$`)
)

// parseSpec reads the report that h2spec prints. Its other form, a file of
// JUnit's, isn't valid XML where a frame held a byte that XML doesn't have.
// The cases come first, then those that failed once more, with details.
func parseSpec(report string) []*specCase {
	var cases []*specCase
	byID := map[string]*specCase{}
	var last *specCase // whose details come next
	group, section := "", ""
	for line := range strings.Lines(report) {
		// A case's title is overwritten by its result.
		line = strings.TrimRight(line, "\r\n ")
		line = line[strings.LastIndex(line, "\r")+1:]
		for start, name := range specGroups {
			if strings.HasPrefix(line, start) {
				group, last = name, nil
			}
		}
		if m := specResult.FindStringSubmatch(line); m != nil {
			id := group + " " + section + " #" + m[2]
			if last = byID[id]; last == nil {
				last = &specCase{id: id, title: m[3], passed: m[1] == "✔"}
				byID[id] = last
				cases = append(cases, last)
			}
			last.detail = ""
		} else if m := specSection.FindStringSubmatch(line); m != nil {
			section, last = m[1], nil
		} else if last != nil && !last.passed && line != "" {
			last.detail += "\n" + line
		}
	}
	return cases
}

// TestH2Spec runs h2spec's cases, the strict ones too.
func TestH2Spec(t *testing.T) {
	t.Parallel()
	tool := need.Tool(t, "bin", "h2spec")
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, "a body for the cases that need one")
	})
	f := startFront(t, "HTTP", origin.Port())
	out, err := exec.Command(tool, "--strict", "-h", "127.0.0.1", "-p", f.port, "-P", "/").CombinedOutput()
	cases := parseSpec(string(out))
	const all, least = 146, 141
	if len(cases) != all {
		t.Fatalf("h2spec reports %d cases, want %d (%v):\n%s", len(cases), all, err, out)
	}
	passed, needed := 0, map[string]bool{}
	for _, c := range cases {
		why, dated := datedSpec[c.id]
		switch {
		case c.passed:
			passed++
		case dated:
			needed[c.id] = true
			t.Logf("%s: %s: fails, and may: %s", c.id, c.title, why)
		default:
			t.Errorf("%s: %s%s", c.id, c.title, c.detail)
		}
	}
	t.Logf("%d of %d cases pass", passed, all)
	if passed < least {
		t.Errorf("%d cases pass, want at least %d", passed, least)
	}
	for id, why := range datedSpec {
		if !needed[id] {
			t.Errorf("%s passes: take its allowance away (%s)", id, why)
		}
	}
}

// TestH2SpecAllowances: the list can't be used to let pass what has to hold.
func TestH2SpecAllowances(t *testing.T) {
	t.Parallel()
	never := regexp.MustCompile(`^(hpack|generic 5 |http2 (4\.2|4\.3|6|8)[. ])`)
	for id := range datedSpec {
		if never.MatchString(id) {
			t.Errorf("%s may not fail, whatever the reason", id)
		}
	}
	report := fmt.Sprint("Generic tests for HTTP/2 server\n  1. Starting HTTP/2\n    ✔ 1: Sends a client connection preface\n\n",
		"HPACK: Header Compression for HTTP/2\n  2. X\n    2.3. Y\n      2.3.3. Index\n        × 1: Sends\n          -> must\n             Expected: GOAWAY\n")
	cases := parseSpec(report)
	if len(cases) != 2 || cases[0].id != "generic 1 #1" || !cases[0].passed ||
		cases[1].id != "hpack 2.3.3 #1" || cases[1].passed || !strings.Contains(cases[1].detail, "GOAWAY") {
		t.Errorf("a report is read as %+v", cases)
	}
}
