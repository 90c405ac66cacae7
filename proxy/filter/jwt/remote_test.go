// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pillion/proxy/proxytest/mint"
)

// issuer is a Fetcher whose state a test sets.
type issuer struct {
	mu     sync.Mutex
	status int           // guarded by mu
	body   string        // guarded by mu
	err    error         // guarded by mu
	takes  time.Duration // guarded by mu
	asked  int           // guarded by mu
	last   Request       // guarded by mu
}

func (i *issuer) Fetch(ctx context.Context, r *Request) (int, []byte, error) {
	i.mu.Lock()
	i.asked++
	i.last = *r
	status, body, err, takes := i.status, i.body, i.err, i.takes
	i.mu.Unlock()
	if takes > r.Timeout {
		takes, err = r.Timeout, errors.New("too late")
	}
	time.Sleep(takes) // the time of a bubble
	return status, []byte(body), err
}

func (i *issuer) set(status int, body string, err error, takes time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status, i.body, i.err, i.takes = status, body, err, takes
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

const remoteConfig = `
providers: {p: {issuer: iss, remote_jwks: {http_uri: {uri: "https://issuer.test:8443/keys?a=b", cluster: c, timeout: 2s}, cache_duration: 300s%s}}}
rules: [{match: {prefix: /}, requires: {provider_name: p}}]
`

// remoteRig runs f in a bubble with a filter whose keys are remote.
func remoteRig(t *testing.T, more string, f func(k *mint.Keys, i *issuer, flt *Filter, s *Stats)) {
	keys := mint.New(t)
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{status: 200, body: keys.Set("rsa")}
		e, s, r, err := compile(t, fmt.Sprintf(remoteConfig, more), i)
		if err != nil {
			t.Fatal(err)
		}
		flt, _ := e.New(nil)
		f(keys, i, flt, s)
		r.Close()
	})
}

func good(k *mint.Keys) string { return bearer(k.Token("RS256", "rsa", mint.Claims("iss", "s"))) }

func TestKeysAreFetchedOnce(t *testing.T) {
	remoteRig(t, "", func(k *mint.Keys, i *issuer, f *Filter, s *Stats) {
		i.set(200, k.Set("rsa"), nil, time.Second)
		token := good(k)
		if !f.Waits(request("/", token)) || f.Waits(request("/")) {
			t.Error("a token needs keys, and a request without one doesn't")
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if why := ask(f, request("/", token)); why != "" {
					t.Error(why)
				}
			})
		}
		wg.Wait()
		if i.count() != 1 || s.FetchSuccess.Value() != 1 || s.Allowed.Value() != 20 {
			t.Errorf("%d fetches, %d allowed", i.count(), s.Allowed.Value())
		}
		if f.Waits(request("/", token)) {
			t.Error("a verified token waits")
		}
		want := Request{Cluster: "c", Scheme: "https", Authority: "issuer.test:8443", Path: "/keys?a=b", Timeout: 2 * time.Second, MaxBody: 1 << 20}
		if i.last != want {
			t.Errorf("the request is %+v", i.last)
		}
	})
}

// TestKeysOutliveTheIssuer: the last good keys serve on, whatever an issuer
// says or doesn't, and requests don't wait for what failed before.
func TestKeysOutliveTheIssuer(t *testing.T) {
	for name, broken := range map[string]func(*issuer){
		"outage": func(i *issuer) { i.set(0, "", errors.New("refused"), 0) }, "slow": func(i *issuer) { i.set(200, "{}", nil, time.Hour) },
		"HTML": func(i *issuer) { i.set(200, "<html>", nil, 0) }, "no keys": func(i *issuer) { i.set(200, `{"keys":[]}`, nil, 0) },
		"redirect": func(i *issuer) { i.set(302, "", nil, 0) }, "error": func(i *issuer) { i.set(500, "", nil, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			remoteRig(t, "", func(k *mint.Keys, i *issuer, f *Filter, s *Stats) {
				if why := ask(f, request("/", good(k))); why != "" {
					t.Fatal(why)
				}
				broken(i)
				for n := range 100 {
					time.Sleep(301 * time.Second)
					begun := time.Now()
					if why := ask(f, request("/", good(k))); why != "" {
						t.Fatalf("after %d times: %s", n, why)
					}
					if n > 0 && time.Since(begun) > 0 {
						t.Fatalf("request %d waits %v for an issuer that is known to be out of order", n, time.Since(begun))
					}
				}
				synctest.Wait()
				if s.FetchFailed.Value() < 50 {
					t.Errorf("only %d fetches were tried", s.FetchFailed.Value())
				}
				i.set(200, k.Set("p256"), nil, 0)
				time.Sleep(10 * time.Second)
				ask(f, request("/", good(k))) // which fetches in the background
				synctest.Wait()
				if why := ask(f, request("/", good(k))); why != JwksKidAlgMismatch.String() {
					t.Errorf("a key that the issuer has withdrawn: %q", why)
				}
			})
		})
	}
}

func TestNoKeysYet(t *testing.T) {
	remoteRig(t, "", func(k *mint.Keys, i *issuer, f *Filter, s *Stats) {
		i.set(503, "", nil, 0)
		for range 50 {
			if why := ask(f, request("/", good(k))); why != JwksFetchFail.String() {
				t.Fatal(why)
			}
		}
		if i.count() != 1 {
			t.Errorf("%d fetches within a second of a failure", i.count())
		}
		i.set(200, k.Set("rsa"), nil, 0)
		time.Sleep(time.Second)
		if why := ask(f, request("/", good(k))); why != "" {
			t.Error(why)
		}
	})
}

func TestUnknownKeyIsFetched(t *testing.T) {
	remoteRig(t, "", func(k *mint.Keys, i *issuer, f *Filter, s *Stats) {
		if why := ask(f, request("/", good(k))); why != "" {
			t.Fatal(why)
		}
		i.set(200, k.Set("rsa", "p256"), nil, 0)
		ec := bearer(k.Token("ES256", "p256", mint.Claims("iss", "s")))
		if why := ask(f, request("/", ec)); why != JwksKidAlgMismatch.String() {
			t.Errorf("just fetched: %q", why)
		}
		time.Sleep(unknownKeyPause)
		for range 20 {
			if why := ask(f, request("/", ec)); why != "" {
				t.Errorf("the issuer's new key: %s", why)
			}
		}
		time.Sleep(unknownKeyPause)
		for n := range 100 {
			forged := bearer(k.Sign("RS256", "other", fmt.Sprintf(`{"alg":"RS256","kid":"k%d"}`, n), mint.Claims("iss", "s")))
			if why := ask(f, request("/", forged)); why == "" {
				t.Fatal("a forged token passes")
			}
		}
		if i.count() != 3 {
			t.Errorf("%d fetches, want one for the start, one for the new key, and one for 100 forged ones", i.count())
		}
		// A withdrawn key takes its tokens along, verified before or not.
		time.Sleep(unknownKeyPause)
		i.set(200, k.Set("p256"), nil, 0)
		ask(f, request("/", bearer(k.Sign("RS256", "other", `{"alg":"RS256","kid":"new"}`, mint.Claims("iss", "s")))))
		if why := ask(f, request("/", good(k))); why == "" {
			t.Error("a token of a withdrawn key passes")
		}
	})
}

func TestFetchIsRetried(t *testing.T) {
	remoteRig(t, ", retry_policy: {num_retries: 3, retry_back_off: {base_interval: 1s, max_interval: 2s}}", func(k *mint.Keys, i *issuer, f *Filter, s *Stats) {
		i.set(503, "", nil, 0)
		begun := time.Now()
		if why := ask(f, request("/", good(k))); why != JwksFetchFail.String() {
			t.Fatal(why)
		}
		if i.count() != 4 || time.Since(begun) > 5*time.Second+3 {
			t.Errorf("%d tries in %v", i.count(), time.Since(begun))
		}
	})
}

func TestCancelledRequestStopsWaiting(t *testing.T) {
	remoteRig(t, "", func(k *mint.Keys, i *issuer, f *Filter, s *Stats) {
		i.set(200, k.Set("rsa"), nil, 2*time.Second)
		gone := make(chan struct{})
		ex := request("/", good(k))
		ex.Cancelled = gone
		begun := time.Now()
		time.AfterFunc(time.Second, func() { close(gone) })
		if why := ask(f, ex); why != JwksFetchFail.String() || time.Since(begun) != time.Second {
			t.Errorf("%q after %v", why, time.Since(begun))
		}
		time.Sleep(2 * time.Second)
	})
}

func TestAsynchronousFetch(t *testing.T) {
	remoteRig(t, ", async_fetch: {failed_refetch_duration: 3s}", func(k *mint.Keys, i *issuer, f *Filter, s *Stats) {
		synctest.Wait()
		if i.count() != 1 {
			t.Fatalf("%d fetches before the first request", i.count())
		}
		time.Sleep(295 * time.Second)
		synctest.Wait()
		if i.count() != 2 {
			t.Errorf("%d fetches, want one before the keys expire", i.count())
		}
		i.set(500, "", nil, 0)
		time.Sleep(295*time.Second + 6*time.Second)
		synctest.Wait()
		if i.count() != 5 {
			t.Errorf("%d fetches, want one every three seconds after a failure", i.count())
		}
	})
}

// TestRemotesAreFoundAgain: a change of configuration keeps the keys that it
// still names and stops fetching the others.
func TestRemotesAreFoundAgain(t *testing.T) {
	keys := mint.New(t)
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{status: 200, body: keys.Set("rsa")}
		r := NewRemotes(i, nil)
		compileWith := func(text string) {
			r.Begin()
			if _, err := NewEngine(parseConfig(t, text), &Env{Stats: &Stats{}, Remotes: r}); err != nil {
				t.Fatal(err)
			}
			r.Commit()
			synctest.Wait()
		}
		text := `providers: {p: {issuer: iss, remote_jwks: {http_uri: {uri: "http://a/", cluster: c, timeout: 2s}, async_fetch: {}}}}`
		compileWith(text)
		compileWith(text)
		if i.count() != 1 {
			t.Errorf("%d fetches of one set", i.count())
		}
		compileWith(`{}`)
		time.Sleep(time.Hour)
		if i.count() != 1 || len(r.all) != 0 {
			t.Errorf("%d fetches, %d sets", i.count(), len(r.all))
		}
		r.Close()
	})
}

// TestOutageIsTold: an issuer that is out of order is one line in the log, however
// often it is asked, and so is its recovery. That the proxy ends is none.
func TestOutageIsTold(t *testing.T) {
	keys := mint.New(t)
	synctest.Test(t, func(t *testing.T) {
		var lines strings.Builder
		i := &issuer{status: 503}
		r := NewRemotes(i, slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})))
		s := &Stats{}
		one, err := r.get("", parseConfig(t, fmt.Sprintf(remoteConfig, ", async_fetch: {failed_refetch_duration: 2s}")).Providers["p"].GetRemoteJwks(), s)
		if err != nil {
			t.Fatal(err)
		}
		one.Start()
		time.Sleep(9 * time.Second)
		i.set(200, "no keys", nil, 0)
		time.Sleep(2 * time.Second)
		if s.FetchFailed.Value() != 6 {
			t.Errorf("%d fetches failed", s.FetchFailed.Value())
		}
		i.set(200, keys.Set("rsa"), nil, 0)
		time.Sleep(2 * time.Second)
		i.set(0, "", errors.New("gone"), time.Second)
		time.Sleep(300 * time.Second)
		r.Close()
		time.Sleep(5 * time.Second)
		const uri = `uri="https://issuer.test:8443/keys?a=b" cluster=c`
		const down = `level=WARN msg="the keys of an issuer of JWTs can't be fetched; the last good ones serve on, if there are any, and the issuer is asked again" ` + uri
		want := down + " keys=false reason=\"the issuer answers 503\"\n" + `level=INFO msg="the keys of an issuer of JWTs are fetched again" ` + uri + "\n" + down + " keys=true reason=gone\n"
		if got := lines.String(); got != want {
			t.Errorf("the log is\n%swant\n%s", got, want)
		}
	})
}
