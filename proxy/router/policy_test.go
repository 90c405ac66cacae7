// SPDX-License-Identifier: Apache-2.0

package router

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/proxytest"
)

// within fails unless hits of n tries are p of them, by three sigma.
func within(t *testing.T, what string, hits, n int, p float64) {
	t.Helper()
	want, sigma := float64(n)*p, math.Sqrt(float64(n)*p*(1-p))
	if math.Abs(float64(hits)-want) > 3*sigma {
		t.Errorf("%s: %d of %d, want %.0f ± %.0f", what, hits, n, want, 3*sigma)
	}
}

func TestTargetsGetTheirShare(t *testing.T) {
	r := Route{Kind: Forward, Targets: []Target{
		{Cluster: named("v1"), Weight: 99}, {Cluster: named("v2"), Weight: 1}, {Cluster: named("off"), Weight: 0}}}
	r.seal(nil)
	const n = 200_000
	count := map[string]int{}
	rng := rand.New(rand.NewPCG(1, 2))
	for range n {
		count[r.Target(rng.Uint64()).Cluster.Name()]++
	}
	within(t, "v1", count["v1"], n, 0.99)
	within(t, "v2", count["v2"], n, 0.01)
	if count["off"] != 0 {
		t.Errorf("a target without weight gets %d", count["off"])
	}
}

func TestHugeWeights(t *testing.T) {
	r := Route{Targets: []Target{{Cluster: named("a"), Weight: math.MaxUint32}, {Cluster: named("b"), Weight: math.MaxUint32}}}
	r.seal(nil)
	const n = 20_000
	a := 0
	rng := rand.New(rand.NewPCG(3, 4))
	for range n {
		if r.Target(rng.Uint64()).Cluster.Name() == "a" {
			a++
		}
	}
	within(t, "half", a, n, 0.5)
}

// TestDecisionsAreIndependent holds that one random number can serve a route's
// share, its target and its mirrors without one choice favouring another.
func TestDecisionsAreIndependent(t *testing.T) {
	r := Route{Targets: []Target{{Cluster: named("a"), Weight: 50}, {Cluster: named("b"), Weight: 50}}}
	r.seal(nil)
	half := match.Fraction{Numerator: 50, Denominator: 100}
	m := []Mirror{{Fraction: half}, {Fraction: half}}
	const n = 100_000
	rng := rand.New(rand.NewPCG(5, 6))
	var taken, both, mirrors int
	for range n {
		x := rng.Uint64()
		if half.Takes(x) {
			taken++
			if r.Target(x).Cluster.Name() == "a" {
				both++
			}
		}
		if m[0].Takes(x, 0) && m[1].Takes(x, 1) {
			mirrors++
		}
	}
	within(t, "the share", taken, n, 0.5)
	within(t, "the share and one of two targets", both, n, 0.25)
	within(t, "two mirrors at once", mirrors, n, 0.25)
}

func TestParseRetryOn(t *testing.T) {
	const all = "5xx,gateway-error,reset,reset-before-request,connect-failure,refused-stream,retriable-4xx," +
		"retriable-status-codes,envoy-ratelimited,cancelled,deadline-exceeded,internal,resource-exhausted,unavailable"
	on, unknown := ParseRetryOn(all)
	if on.String() != all || unknown != nil || on != 1<<14-1 {
		t.Errorf("%s, unknown %q", on, unknown)
	}
	on, unknown = ParseRetryOn(" 5xx , nope,,http3-post-connect-failure")
	if on != RetryOn5xx || strings.Join(unknown, " ") != "nope http3-post-connect-failure" {
		t.Errorf("%s, unknown %q", on, unknown)
	}
	if on, _ := ParseRetryOn(""); on != 0 {
		t.Errorf("nothing is %s", on)
	}
}

// TestRetryError goes through Envoy's RetryStateImpl::wouldRetryFromReset.
func TestRetryError(t *testing.T) {
	kinds := map[http.Kind]string{
		http.KindConnectFailure:   "5xx gateway-error reset reset-before-request connect-failure",
		http.KindConnectTimeout:   "5xx gateway-error reset reset-before-request connect-failure",
		http.KindPoolReset:        "5xx gateway-error reset reset-before-request",
		http.KindReset:            "5xx gateway-error reset",
		http.KindTimeout:          "5xx gateway-error reset",
		http.KindUpstreamProtocol: "5xx gateway-error reset",
		http.KindRefused:          "5xx gateway-error reset refused-stream",
		http.KindOverflow:         "",
		http.KindNoHealthy:        "",
		http.KindNoRoute:          "",
		http.KindClientGone:       "",
		http.KindResolve:          "",
		http.KindTooLarge:         "",
	}
	for kind, want := range kinds {
		for _, name := range retryOnNames {
			on, _ := ParseRetryOn(name)
			p := RetryPolicy{On: on, StatusCodes: []int{503}}
			wanted := strings.Contains(" "+want+" ", " "+name+" ")
			if got := p.RetryError(&http.Error{Kind: kind, Status: 503}); got != wanted {
				t.Errorf("kind %d under %s: %t, want %t", kind, name, got, wanted)
			}
		}
	}
}

// TestRetryResponse goes through Envoy's RetryStateImpl::wouldRetryFromHeaders.
func TestRetryResponse(t *testing.T) {
	for _, c := range []struct {
		on     string
		status int
		fields string
		want   bool
	}{
		{"5xx", 500, "", true}, {"5xx", 599, "", true}, {"5xx", 499, "", false},
		{"gateway-error", 500, "", false}, {"gateway-error", 502, "", true}, {"gateway-error", 504, "", true}, {"gateway-error", 505, "", false},
		{"retriable-4xx", 409, "", true}, {"retriable-4xx", 404, "", false},
		{"retriable-status-codes", 503, "", true}, {"retriable-status-codes", 502, "", false},
		{"reset,connect-failure,refused-stream", 503, "", false},
		{"envoy-ratelimited", 429, "x-envoy-ratelimited: true", true}, {"envoy-ratelimited", 429, "", false},
		{"5xx", 503, "x-envoy-ratelimited: true", false},
		{"cancelled", 200, "grpc-status: 1", true}, {"deadline-exceeded", 200, "grpc-status: 4", true},
		{"resource-exhausted", 200, "grpc-status: 8", true}, {"internal", 200, "grpc-status: 13", true},
		{"unavailable", 200, "grpc-status: 14", true}, {"unavailable", 200, "grpc-status: 13", false},
		{"unavailable", 200, "grpc-status: 0", false}, {"unavailable", 200, "grpc-status: x", false}, {"unavailable", 503, "", false},
		{"5xx", 200, "grpc-status: 14", false},
	} {
		on, _ := ParseRetryOn(c.on)
		p := RetryPolicy{On: on, StatusCodes: []int{418, 503}}
		h := http.ResponseHead{Status: c.status}
		if c.fields != "" {
			addLines(&h.Fields, []string{c.fields})
		}
		if got := p.RetryResponse(&h); got != c.want {
			t.Errorf("%s, %d %s: %t, want %t", c.on, c.status, c.fields, got, c.want)
		}
	}
}

func TestRetryPolicyDefaults(t *testing.T) {
	p := &RetryPolicy{On: RetryOn5xx | RetryOnRetriableStatusCodes, StatusCodes: []int{503}, NumRetries: 2, PerTryTimeout: time.Second}
	if base, limit := p.BackOff(); base != 25*time.Millisecond || limit != 250*time.Millisecond {
		t.Errorf("back off from %v to %v", base, limit)
	}
	p.BackoffBase = time.Second
	if base, limit := p.BackOff(); base != time.Second || limit != 10*time.Second {
		t.Errorf("back off from %v to %v", base, limit)
	}
	p.BackoffMax = 2 * time.Second
	if _, limit := p.BackOff(); limit != 2*time.Second {
		t.Errorf("back off to %v", limit)
	}
	if got, want := p.String(), "2 retries on 5xx,retriable-status-codes [503], 1s a try"; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
}

// TestTimes holds what Envoy 1.40 does; ByClient is ours, and what a service is
// told of a try's time.
func TestTimes(t *testing.T) {
	const plain, grpc = "content-type: text/plain", "content-type: application/grpc"
	const s, ms = time.Second, time.Millisecond
	old := func(limit, offset time.Duration) *More {
		return &More{GRPC: GRPCTimeout{Set: true, Max: limit, Offset: offset}}
	}
	stream := func(most, limit, offset time.Duration) *More {
		return &More{HasMaxStream: true, MaxStream: most, StreamGRPC: GRPCTimeout{Set: true, Max: limit, Offset: offset}}
	}
	for _, c := range []struct {
		more   *More
		try    time.Duration
		fields string
		want   Times
		told   string // x-envoy-expected-rq-timeout-ms, grpc-timeout
	}{
		{nil, 0, grpc + "|grpc-timeout: 1S", Times{Response: 15 * s}, "15000 1S"},
		{old(0, 0), 0, plain + "|grpc-timeout: 1S", Times{Response: 15 * s}, "15000 1S"},
		{old(0, 0), 0, grpc, Times{}, " "},
		{old(0, 0), 0, grpc + "|grpc-timeout: 1S", Times{Response: s, ByClient: true}, "1000 1000m"},
		{old(0, 0), 0, grpc + "|grpc-timeout: 0S", Times{}, " 0S"},
		{old(0, 0), 0, grpc + "|grpc-timeout: soon", Times{}, " soon"},
		{old(0, 0), 0, grpc + "|grpc-timeout: 1500u", Times{Response: 1500 * time.Microsecond, ByClient: true}, "2 2m"},
		{old(3*s, 0), 0, grpc, Times{Response: 3 * s}, "3000 3000m"},
		{old(3*s, 0), 0, grpc + "|grpc-timeout: 1M", Times{Response: 3 * s}, "3000 3000m"},
		{old(3*s, 0), 0, grpc + "|grpc-timeout: 100m", Times{Response: 100 * ms, ByClient: true}, "100 100m"},
		{old(0, 100*ms), 0, grpc + "|grpc-timeout: 400m", Times{Response: 300 * ms, ByClient: true}, "300 300m"},
		{old(0, 100*ms), 0, grpc + "|grpc-timeout: 50m", Times{Response: 50 * ms, ByClient: true}, "50 50m"},
		{old(0, 0), 200 * ms, grpc + "|grpc-timeout: 5S", Times{Response: 5 * s, Try: 200 * ms, ByClient: true}, "200 5000m"},
		{old(0, 0), 200 * ms, grpc, Times{Try: 200 * ms}, "200 "},
		{old(0, 0), 6 * s, grpc + "|grpc-timeout: 5S", Times{Response: 5 * s, ByClient: true}, "5000 5000m"},
		{stream(0, 0, 0), 0, grpc, Times{HasStream: true}, " "},
		{stream(0, 0, 0), 0, plain + "|grpc-timeout: 1S", Times{Stream: s, HasStream: true, ByClient: true}, " 1000m"},
		{stream(time.Minute, 2*s, 0), 0, grpc, Times{Stream: time.Minute, HasStream: true}, " "},
		{stream(time.Minute, 2*s, 0), 0, grpc + "|grpc-timeout: 1H", Times{Stream: 2 * s, HasStream: true, ByClient: true}, " 2000m"},
		{stream(0, 5*s, 100*ms), 0, grpc + "|grpc-timeout: 20S", Times{Stream: 4900 * ms, HasStream: true, ByClient: true}, " 4900m"},
		{stream(0, 5*s, 100*ms), 0, grpc + "|grpc-timeout: 50m", Times{Stream: 1, HasStream: true, ByClient: true}, " 1m"},
		{&More{HasMaxStream: true, MaxStream: s}, 0, grpc + "|grpc-timeout: 9S", Times{Stream: s, HasStream: true}, " 1000m"},
		{&More{HasMaxStream: true}, 0, grpc + "|grpc-timeout: 9S", Times{HasStream: true}, " 9S"},
	} {
		r := Route{Timeout: 15 * s, More: c.more}
		if c.more != nil && c.more.HasMaxStream {
			r.Timeout = 0 // as the compiler has it
		}
		if c.try > 0 {
			r.Retry = &RetryPolicy{PerTryTimeout: c.try}
		}
		ex := exchange("POST h /", strings.Split(c.fields, "|")...)
		ex.GRPC = ex.Req.IsGRPC()
		got := r.TimesFor(ex)
		got.Tell(ex, 0, true)
		got.tell = false
		if got != c.want {
			t.Errorf("%+v, %s: %+v, want %+v", c.more, c.fields, got, c.want)
		}
		expected, _ := ex.Req.Fields.Get(http.HeaderXEnvoyExpectedRqTimeoutMs)
		deadline, _ := ex.Req.Fields.Get(http.HeaderGRPCTimeout)
		if told := string(expected) + " " + string(deadline); told != c.told {
			t.Errorf("%+v, %s: tells %q, want %q", c.more, c.fields, told, c.told)
		}
	}
}

func TestTimesOfLaterTries(t *testing.T) {
	times := Times{Response: 500 * time.Millisecond, Try: 200 * time.Millisecond}
	for elapsed, want := range map[time.Duration]string{0: "200", 250 * time.Millisecond: "200", 400 * time.Millisecond: "100",
		499500 * time.Microsecond: "1", time.Second: "1"} {
		ex := exchange("POST h /")
		times.Tell(ex, elapsed, true)
		if got, _ := ex.Req.Fields.Get(http.HeaderXEnvoyExpectedRqTimeoutMs); string(got) != want {
			t.Errorf("after %v: %s ms, want %s", elapsed, got, want)
		}
	}
	ex := exchange("POST h /")
	times.Tell(ex, 0, false)
	if n := ex.Req.Fields.Len(); n != 0 {
		t.Errorf("%d fields where none is wanted", n)
	}
}

func hashRoute(list ...HashPolicy) *Route {
	r := forwardRoute("a")
	r.More = &More{Hash: list}
	r.seal(&VirtualHost{opt: &Options{}})
	return &r
}

func TestHash(t *testing.T) {
	header := HashPolicy{Kind: HashHeader, Header: filter.NewHeaderRef("x-user")}
	cookie := HashPolicy{Kind: HashCookie, Name: "user"}
	source := HashPolicy{Kind: HashSourceIP}
	query := HashPolicy{Kind: HashQuery, Name: "u"}
	rewritten := header
	rewritten.Rewrite = rewriteOf(t, "-.*", "")
	terminal := header
	terminal.Terminal = true
	of := func(r *Route, line string, fields ...string) uint64 {
		h, ok := r.Hash(exchange(line, fields...))
		if !ok {
			return 0
		}
		return h
	}
	// xxHash64 of "abc" without a seed.
	const abc = 0x44bc2cf5ad770999
	turned := uint64(abc)<<1 | uint64(abc)>>63
	for _, c := range []struct {
		name   string
		r      *Route
		line   string
		fields []string
		want   uint64
	}{
		{"header", hashRoute(header), "GET h /", []string{"X-User: abc"}, abc},
		{"no header", hashRoute(header), "GET h /", nil, 0},
		{"rewritten header", hashRoute(rewritten), "GET h /", []string{"x-user: abc-7"}, abc},
		{"cookie", hashRoute(cookie), "GET h /", []string{"cookie: a=b; user=abc; c=d"}, abc},
		{"quoted cookie", hashRoute(cookie), "GET h /", []string{"cookie: xuser=1", `cookie: user="abc"`}, abc},
		{"no cookie", hashRoute(cookie), "GET h /", []string{"cookie: auser=abc; user2=x; user"}, 0},
		{"query", hashRoute(query), "GET h /?u=abc", nil, abc},
		{"no query", hashRoute(query), "GET h /?uu=abc", nil, 0},
		{"equal ones don't cancel out", hashRoute(header, header), "GET h /", []string{"x-user: abc"}, turned ^ abc},
		{"terminal", hashRoute(terminal, query), "GET h /?u=x", []string{"x-user: abc"}, abc},
		{"terminal without a hash", hashRoute(terminal, query), "GET h /?u=abc", nil, abc},
		{"none", hashRoute(), "GET h /", nil, 0},
	} {
		if got := of(c.r, c.line, c.fields...); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	if a, b := of(hashRoute(header), "GET h /", "x-user: 1", "x-user: 2"), of(hashRoute(header), "GET h /", "x-user: 2", "x-user: 1"); a != b || a == 0 {
		t.Errorf("the order of lines matters: %#x and %#x", a, b)
	}
	a, b := exchange("GET h /"), exchange("GET h /")
	b.Conn = &http.ConnInfo{Remote: "10.0.0.1:7"}
	if x, ok := hashRoute(source).Hash(a); !ok {
		t.Error("an address has no hash")
	} else if y, _ := hashRoute(source).Hash(b); x != y {
		t.Error("the port counts")
	}
}

// TestAffinityCookie holds the cookie that Envoy 1.40 sets.
func TestAffinityCookie(t *testing.T) {
	for _, c := range []struct {
		cookie *AffinityCookie
		fields string
		want   string
	}{
		{&AffinityCookie{TTL: time.Minute, Attributes: "; HttpOnly"}, "a: b", `"; Max-Age=60; HttpOnly`},
		{&AffinityCookie{Attributes: "; Path=/p; HttpOnly"}, "cookie: user=", `"; Path=/p; HttpOnly`},
		{&AffinityCookie{TTL: time.Minute}, "cookie: user=abc", ""},
		{nil, "a: b", ""},
	} {
		r := hashRoute(HashPolicy{Kind: HashCookie, Name: "user", Cookie: c.cookie, Terminal: true},
			HashPolicy{Kind: HashCookie, Name: "never", Cookie: &AffinityCookie{}})
		if c.want == "" {
			r.More.Hash = r.More.Hash[:1]
		}
		ex := exchange("GET h /", c.fields)
		ex.Upstream = &http.HostFacts{}
		hash, ok := r.Hash(ex)
		r.ApplyResponse(ex, nil)
		got := lines(&ex.Resp.Fields)
		if c.want == "" {
			if got != "" {
				t.Errorf("%s: %s", c.fields, got)
			}
			continue
		}
		value, rest := got, ""
		if after, found := strings.CutPrefix(got, `set-cookie: user="`); found && len(after) > 16 {
			value, rest = after[:16], after[16:]
		}
		if !ok || rest != c.want {
			t.Fatalf("%s: %s, want …%s", c.fields, got, c.want)
		}
		again, _ := r.Hash(exchange("GET h /", "cookie: user="+value))
		if again != hash {
			t.Errorf("the next request goes elsewhere: %#x, was %#x", again, hash)
		}
	}
	// Nothing was chosen by the hash, so there is nothing to remember.
	r := hashRoute(HashPolicy{Kind: HashCookie, Name: "user", Cookie: &AffinityCookie{}})
	ex := exchange("GET h /")
	r.ApplyResponse(ex, nil)
	if got := lines(&ex.Resp.Fields); got != "" {
		t.Errorf("a local reply sets %s", got)
	}
}

func TestHashAllocatesNothing(t *testing.T) {
	r := hashRoute(HashPolicy{Kind: HashHeader, Header: filter.NewHeaderRef("x-user")}, HashPolicy{Kind: HashSourceIP},
		HashPolicy{Kind: HashCookie, Name: "user", Cookie: &AffinityCookie{}}, HashPolicy{Kind: HashQuery, Name: "u"})
	ex := exchange("GET h /?u=1", "x-user: abc", "cookie: a=b; c=d")
	proxytest.NoAllocs(t, "Hash", func() { r.Hash(ex) })
}

func TestRetryAllocatesNothing(t *testing.T) {
	p := RetryPolicy{On: RetryOn5xx | RetryOnGRPCUnavailable}
	h := http.ResponseHead{Status: 200}
	addLines(&h.Fields, []string{"grpc-status: 14"})
	proxytest.NoAllocs(t, "RetryResponse", func() { p.RetryResponse(&h) })
}
