// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"pillion/proxy/http"
)

// Request asks a cluster for a document.
type Request struct {
	Cluster                 string
	Scheme, Authority, Path string
	Timeout                 time.Duration
	MaxBody                 int // of the answer, in octets; a longer one fails
}

// Fetcher makes requests to clusters of the proxy. It follows no redirect: the
// answer is that of the cluster, whatever its status.
type Fetcher interface {
	Fetch(ctx context.Context, r *Request) (status int, body []byte, err error)
}

// Times of remote key sets.
const (
	defaultCacheDuration = 10 * time.Minute
	defaultRefetch       = time.Second // after a fetch that failed
	refetchBefore        = 5 * time.Second
	// unknownKeyPause is how long a token with the id of a key that isn't there
	// makes nobody fetch again: else every forged token would.
	unknownKeyPause = 5 * time.Second
	maxJWKS         = 1 << 20
	maxRetries      = 10
)

// Remote is a key set that is fetched. It survives changes of configuration
// that don't change where it comes from, and serves the last good keys as long
// as no newer ones can be had. Safe for concurrent use.
type Remote struct {
	request  Request       // immutable, as are those below
	lifetime time.Duration // of fetched keys
	refetch  time.Duration // after a failure
	retries  int
	backOff  time.Duration
	backMax  time.Duration
	async    bool
	fetcher  Fetcher
	stats    *Stats
	log      *slog.Logger
	ctx      context.Context // ends when the proxy does

	keys    atomic.Pointer[keySet]
	expires atomic.Int64 // when the keys are to be fetched again; of http.Now
	failed  atomic.Bool  // the last fetch failed

	mu       sync.Mutex
	inflight chan struct{} // closed when the fetch under way ends; nil without one; guarded by mu
	began    int64         // when the last fetch began, of http.Now; guarded by mu
	tried    bool          // there was one; guarded by mu
	timer    *time.Timer   // of the next asynchronous fetch; guarded by mu
	active   bool          // asynchronous fetches go on; guarded by mu
}

// newRemote compiles where keys come from. Errors name the field.
func newRemote(ctx context.Context, cfg *jwtv3.RemoteJwks, f Fetcher, s *Stats, log *slog.Logger) (*Remote, error) {
	r := &Remote{ctx: ctx, fetcher: f, stats: s, log: log, lifetime: defaultCacheDuration, refetch: defaultRefetch}
	if err := onlyFields(cfg, "http_uri", "cache_duration", "async_fetch", "retry_policy"); err != nil {
		return nil, err
	}
	if err := r.setURI(cfg); err != nil {
		return nil, fmt.Errorf("http_uri.%w", err)
	}
	if d := cfg.GetCacheDuration(); d != nil {
		if r.lifetime = d.AsDuration(); r.lifetime <= 0 || r.lifetime > 366*24*time.Hour {
			return nil, fmt.Errorf("cache_duration: %v is not between 0 and a year", r.lifetime)
		}
	}
	if a := cfg.GetAsyncFetch(); a != nil {
		r.async = true
		if err := onlyFields(a, "fast_listener", "failed_refetch_duration"); err != nil {
			return nil, fmt.Errorf("async_fetch.%w", err)
		}
		if d := a.GetFailedRefetchDuration(); d != nil {
			if r.refetch = d.AsDuration(); r.refetch <= 0 {
				return nil, fmt.Errorf("async_fetch.failed_refetch_duration: %v is not above 0", r.refetch)
			}
		}
	}
	return r, r.setRetries(cfg)
}

func (r *Remote) setURI(cfg *jwtv3.RemoteJwks) error {
	h := cfg.GetHttpUri()
	if err := onlyFields(h, "uri", "cluster", "timeout"); err != nil {
		return err
	}
	u, err := url.Parse(h.GetUri())
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("uri: %q is no URL of http or https", h.GetUri())
	}
	if h.GetCluster() == "" {
		return errors.New("cluster: is needed")
	}
	d := h.GetTimeout().AsDuration()
	if d <= 0 || d > time.Hour {
		return fmt.Errorf("timeout: %v is not between 0 and an hour", d)
	}
	r.request = Request{Cluster: h.GetCluster(), Scheme: u.Scheme, Authority: u.Host, Path: u.RequestURI(), Timeout: d, MaxBody: maxJWKS}
	return nil
}

func (r *Remote) setRetries(cfg *jwtv3.RemoteJwks) error {
	p := cfg.GetRetryPolicy()
	if p == nil {
		return nil
	}
	if err := onlyFields(p, "retry_back_off", "num_retries"); err != nil {
		return fmt.Errorf("retry_policy.%w", err)
	}
	r.retries, r.backOff = 1, time.Second
	if n := p.GetNumRetries(); n != nil {
		r.retries = int(min(n.GetValue(), maxRetries))
	}
	if b := p.GetRetryBackOff().GetBaseInterval(); b != nil {
		if r.backOff = b.AsDuration(); r.backOff < time.Millisecond {
			return fmt.Errorf("retry_policy.retry_back_off.base_interval: %v is below 1ms", r.backOff)
		}
	}
	r.backMax = 10 * r.backOff
	if m := p.GetRetryBackOff().GetMaxInterval(); m != nil {
		if r.backMax = m.AsDuration(); r.backMax < r.backOff {
			return fmt.Errorf("retry_policy.retry_back_off.max_interval: %v is below the base_interval", r.backMax)
		}
	}
	return nil
}

// ready returns the keys if a request needn't wait: they are not overdue, or
// the issuer is out of order and these are the best that there are. Then it is
// asked again in the background.
func (r *Remote) ready(now int64) *keySet {
	k := r.keys.Load()
	if k == nil || now < r.expires.Load() {
		return k
	}
	if !r.failed.Load() {
		return nil
	}
	r.fetchOnce(now, r.refetch)
	return k
}

// get returns the keys, and waits for a fetch if there are none that are
// ready. It returns nil if none can be had.
func (r *Remote) get(cancelled <-chan struct{}) *keySet {
	now := http.Now()
	if k := r.ready(now); k != nil {
		return k
	}
	wait(r.fetchOnce(now, r.pause()), cancelled)
	return r.keys.Load()
}

// pause is how long a failed fetch of the first keys is not repeated.
func (r *Remote) pause() time.Duration {
	if r.failed.Load() {
		return r.refetch
	}
	return 0
}

// again fetches for a token with the id of a key that isn't among old, unless
// that was tried just now, and returns the keys.
func (r *Remote) again(old *keySet, cancelled <-chan struct{}) *keySet {
	wait(r.fetchOnce(http.Now(), unknownKeyPause), cancelled)
	if k := r.keys.Load(); k != nil {
		return k
	}
	return old
}

func wait(done <-chan struct{}, cancelled <-chan struct{}) {
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-cancelled:
	}
}

// fetchOnce begins a fetch unless one is under way or one began within pause.
// It returns what is closed when the fetch ends, nil if there is none.
func (r *Remote) fetchOnce(now int64, pause time.Duration) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inflight != nil {
		return r.inflight
	}
	if r.fetcher == nil || r.ctx.Err() != nil || r.tried && now < r.began+int64(pause) {
		return nil
	}
	r.inflight, r.began, r.tried = make(chan struct{}), now, true
	go r.run()
	return r.inflight
}

// run makes one fetch with its retries.
func (r *Remote) run() {
	keys, err := r.fetch()
	if err == nil {
		r.stats.FetchSuccess.Inc()
		// The same keys stay the same object, so that tokens verified with
		// them needn't be verified again.
		if old := r.keys.Load(); old == nil || old.text != keys.text {
			r.keys.Store(keys)
		}
		r.expires.Store(http.Now() + int64(r.lifetime))
	} else {
		r.stats.FetchFailed.Inc()
	}
	r.tell(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.inflight)
	r.inflight = nil
	r.schedule(err == nil)
}

// tell writes one line when an outage begins, and one when it is over.
func (r *Remote) tell(err error) {
	was := r.failed.Swap(err != nil)
	uri := r.request.Scheme + "://" + r.request.Authority + r.request.Path
	switch {
	case err != nil && r.ctx.Err() != nil:
		// The proxy ends, and with it the fetch.
	case err != nil && !was:
		r.log.Warn("the keys of an issuer of JWTs can't be fetched; the last good ones serve on, if there are any, and the issuer is asked again",
			"uri", uri, "cluster", r.request.Cluster, "keys", r.keys.Load() != nil, "reason", err)
	case err == nil && was:
		r.log.Info("the keys of an issuer of JWTs are fetched again", "uri", uri, "cluster", r.request.Cluster)
	}
}

// fetch tries until there are keys or no retry is left.
func (r *Remote) fetch() (*keySet, error) {
	for try := 0; ; try++ {
		status, body, err := r.fetcher.Fetch(r.ctx, &r.request)
		switch {
		case err == nil && status == 200:
			return parseKeySet(body) // what the issuer says isn't better for being said twice
		case err == nil && status < 500:
			return nil, fmt.Errorf("the issuer answers %d", status)
		case err == nil:
			err = fmt.Errorf("the issuer answers %d", status)
		}
		if try >= r.retries || !r.sleep(r.interval(try)) {
			return nil, err
		}
	}
}

// interval is the back-off before a retry: random below a bound that doubles
// (Envoy: JitteredExponentialBackOffStrategy).
func (r *Remote) interval(try int) time.Duration {
	bound := min(r.backOff<<min(try, 20), r.backMax)
	return rand.N(bound) + 1
}

func (r *Remote) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// schedule sets the next asynchronous fetch. r.mu is held.
func (r *Remote) schedule(good bool) {
	if !r.async || !r.active || r.ctx.Err() != nil {
		return
	}
	d := r.refetch
	if good {
		if d = r.lifetime; d > refetchBefore {
			d -= refetchBefore
		}
	}
	if r.timer != nil {
		r.timer.Stop() // a request has fetched before its time
	}
	r.timer = time.AfterFunc(d, func() { r.fetchOnce(http.Now(), 0) })
}

// Start begins asynchronous fetches, if they are configured.
func (r *Remote) Start() {
	r.mu.Lock()
	begin := r.async && !r.active
	r.active = true
	r.mu.Unlock()
	if begin {
		r.fetchOnce(http.Now(), 0)
	}
}

// Stop ends asynchronous fetches; requests still fetch what they need.
func (r *Remote) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = false
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}
