// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"pillion/test/rig"
	"pillion/test/wire"
)

// h2Abuse is something that a client does over HTTP/2 to make the proxy work
// for nothing, to fill its memory, or to make it and an origin disagree.
type h2Abuse struct {
	name    string
	options wire.H2Options
	// run misbehaves and says what came of it, as outcome and flood do.
	run func(c *wire.H2) string
	// want lists what may come of it.
	want []string
	// quiet: what was done is no misbehaviour that has to be counted.
	quiet bool
	// check looks at what the origin got, byte for byte.
	check func(seen string) error
}

// outcome waits for the end of a stream or of the connection and names it:
// "200", "reset PROTOCOL_ERROR", "goaway PROTOCOL_ERROR", "closed".
func outcome(c *wire.H2, id uint32) string {
	s, err := c.Await(id)
	switch {
	case s.Reset != nil && s.Headed:
		return s.Get(":status") // the answer, and then no more of the request is wanted
	case s.Reset != nil:
		return "reset " + s.Reset.String()
	case s.Ended:
		return s.Get(":status")
	case err == wire.ErrPatience:
		return "nothing"
	}
	return ending(c)
}

// ending names how a connection ended, or "open".
func ending(c *wire.H2) string {
	g := c.GoneAway()
	switch {
	case g != nil && g.Code != http2.ErrCodeNo:
		return "goaway " + g.Code.String()
	case c.Closed():
		return "closed"
	}
	return "open"
}

// flood writes frames until n times or until the proxy has had enough, and
// names how the connection stands then.
func flood(c *wire.H2, n int, write func(f *http2.Framer, i int) error) string {
	for i := range n {
		err := c.Frames(func(f *http2.Framer) error { return write(f, i) })
		if wire.IsReset(err) && ending(c) == "open" {
			return "closed" // and nobody reads
		}
		if err != nil || c.Closed() {
			break
		}
	}
	if c.Stuck() {
		return ending(c)
	}
	if c.Ping() == nil {
		return ending(c)
	}
	_ = c.WaitClosed() // ending says so
	return ending(c)
}

// abuseLab is the judged proxy before an origin of HTTP/1 (app) and one of HTTP/2 (multi).
type abuseLab struct {
	*rig.Proxy
	app, multi *wire.Origin
	race       bool // built with the race detector, whose own memory would be judged
	before     usage
}

// usage is what a process has taken.
type usage struct {
	resident, files, goroutines int64
}

func (lab *abuseLab) usage(t *testing.T) usage {
	t.Helper()
	u := usage{resident: lab.Resident(t), files: int64(lab.OpenFiles(t))}
	if *subjectName == "ours" {
		u.goroutines = int64(lab.Scrape(t).Sum("go_goroutines"))
	}
	return u
}

func newAbuseLab(t *testing.T, race bool, multi func(c *wire.H2, id uint32)) *abuseLab {
	t.Helper()
	lab := &abuseLab{race: race}
	lab.app = wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		size, _ := strconv.Atoi(strings.TrimPrefix(r.Target, "/size/"))
		return wire.Text(w, r, "ok"+strings.Repeat("x", size))
	})
	// It reads no more of a body than what its first window holds.
	lab.multi = wire.NewH2Origin(t, rig.Patience, wire.H2Options{NoCredit: true}, multi)
	path := fill(t, t.TempDir(), "two-protocols.yaml", "h1", lab.app.Port(), "h2", lab.multi.Port())
	if race && *subjectName == "ours" {
		lab.Proxy = rig.Start(t, binaries.Race(t), rig.Options{}, path)
		t.Cleanup(func() {
			if log := lab.Stderr.String(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic") {
				t.Error("the proxy's log tells of a data race or a panic")
			}
		})
	} else {
		lab.Proxy = startSubject(t, nil, path)
	}
	lab.serves(t)
	lab.before = lab.usage(t)
	return lab
}

// answerMulti is what the origin of HTTP/2 does where a test wants nothing
// else. It never answers a POST.
func answerMulti(c *wire.H2, id uint32) {
	s := c.Snapshot(id)
	if s.Get(":method") == "POST" {
		return
	}
	if c.Head(id, false, wire.Fields{{Name: ":status", Value: "200"}}) == nil {
		_ = c.Data(id, true, []byte("ok")) // the proxy may have gone
	}
}

// serves makes sure that a new connection is served, promptly.
func (lab *abuseLab) serves(t *testing.T) {
	t.Helper()
	const promptly = 5 * time.Second
	for _, host := range []string{"app", "multi"} {
		c, err := wire.DialH2(lab.HTTP, promptly, wire.H2Options{})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := c.Get(host, "/next"); err != nil || s.Get(":status") != "200" || string(s.Body) != "ok" {
			t.Errorf("the next request to %s got %v, %q (%v; %v)", host, s.Fields, s.Body, err, c)
		}
		c.Close()
	}
}

// misbehaviour are the lines of /stats that count what peers do wrong, or what
// the proxy does about it.
var misbehaviour = regexp.MustCompile(`(?m)^\S*(http2\.\S*|protocol_error|downstream_rq_4xx|downstream_rq_5xx|rx_reset|tx_reset|overload\S*|max_requests\S*|timeout): (\d+)$`)

// counted adds them up.
func (lab *abuseLab) counted(t *testing.T) (sum int) {
	t.Helper()
	for _, m := range misbehaviour.FindAllStringSubmatch(lab.Get(t, "/stats"), -1) {
		if strings.Contains(m[1], "streams_active") || strings.Contains(m[1], "pending_send") {
			continue
		}
		n, _ := strconv.Atoi(m[2])
		sum += n
	}
	return sum
}

const mostGrowth = 64 << 20

// try does one abuse and looks at all that it may have left behind.
func (lab *abuseLab) try(t *testing.T, a h2Abuse) {
	lab.app.Record()
	counted, resident := lab.counted(t), lab.Resident(t)
	c, err := wire.DialH2(lab.HTTP, 5*time.Second, a.options)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(); err != nil {
		t.Fatalf("the proxy sends no SETTINGS: %v", err)
	}
	got := a.run(c)
	if !slices.Contains(a.want, got) {
		t.Errorf("%s, want one of %q (%v)", got, a.want, c)
	}
	if now := lab.Resident(t); !lab.race && now > resident+mostGrowth {
		t.Errorf("the resident memory went from %d to %d KiB", resident>>10, now>>10)
	}
	c.Abort()
	if !a.quiet {
		rig.Until(t, "it is counted", func() error {
			if lab.counted(t) == counted {
				return fmt.Errorf("nothing is")
			}
			return nil
		})
	}
	lab.serves(t)
	lab.judge(t, a, got)
}

// judge looks at what the origin saw of the abuse, before the request that
// serves sends.
func (lab *abuseLab) judge(t *testing.T, a h2Abuse, got string) {
	t.Helper()
	seen, _, _ := strings.Cut(lab.app.Recorded(), "GET /next HTTP/1.1\r\n")
	if strings.Contains(strings.ReplaceAll(seen, "\r\n", ""), "\r") || strings.Contains(strings.ReplaceAll(seen, "\r\n", ""), "\n") {
		t.Errorf("the origin saw a bare CR or LF: %.500q", seen)
	}
	for line := range strings.Lines(seen) {
		if strings.HasPrefix(line, "GET "+smuggled) {
			t.Errorf("the origin saw the smuggled request: %.500q", seen)
		}
	}
	if a.check == nil {
		return
	}
	if err := a.check(seen); err != nil {
		t.Errorf("%v; the answer was %s, the origin saw %.500q", err, got, seen)
	}
}

// wantBack waits until the process has as much as at the beginning. Idle
// connections to origins may be kept; the origins close them.
func (lab *abuseLab) wantBack(t *testing.T) {
	t.Helper()
	lab.app.CloseConns()
	lab.multi.CloseConns()
	rig.Until(t, "what the cases took is given back", func() error {
		was, now := lab.before, lab.usage(t)
		if now.files > was.files+20 || now.goroutines > was.goroutines+20 || !lab.race && now.resident > was.resident+mostGrowth {
			return fmt.Errorf("at first %+v, now %+v", was, now)
		}
		return nil
	})
}

// TestHTTP2Abuse isn't parallel: it wants prompt answers of the proxy.
func TestHTTP2Abuse(t *testing.T) { eachH2Abuse(t, false) }

// TestHTTP2AbuseRace is the same for a proxy that finds data races.
func TestHTTP2AbuseRace(t *testing.T) { eachH2Abuse(t, true) }

func eachH2Abuse(t *testing.T, race bool) {
	lab := newAbuseLab(t, race, answerMulti)
	names := map[string]bool{}
	for _, a := range slices.Concat(resetAbuse(), blockAbuse(), floodAbuse(), windowAbuse(), settingAbuse(), smuggleAbuse()) {
		if names[a.name] {
			t.Fatalf("two cases are called %s", a.name)
		}
		names[a.name] = true
		t.Run(a.name, func(t *testing.T) { lab.try(t, a) })
	}
	if len(names) < 80 {
		t.Errorf("there are %d cases, want at least 80", len(names))
	}
	lab.wantBack(t)
}
