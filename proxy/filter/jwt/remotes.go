// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"context"
	"log/slog"

	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/proto"
)

// Remotes are the remote key sets of a proxy. They are found again when the
// configuration is compiled again. Not safe for concurrent use.
type Remotes struct {
	fetcher Fetcher // nil: nothing is fetched
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	all     map[string]*Remote
	used    map[string]bool // since Begin
}

// NewRemotes returns an empty set, which must be closed. Outages of issuers are
// told to log; nil tells nobody.
func NewRemotes(f Fetcher, log *slog.Logger) *Remotes {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Remotes{fetcher: f, log: log, all: map[string]*Remote{}, used: map[string]bool{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Begin begins a compilation.
func (r *Remotes) Begin() { clear(r.used) }

// Commit ends a compilation that succeeded: key sets that it didn't name are
// forgotten, those of the others that are fetched ahead begin to be.
func (r *Remotes) Commit() {
	for name, one := range r.all {
		if !r.used[name] {
			one.Stop()
			delete(r.all, name)
			continue
		}
		one.Start()
	}
}

// Close ends all fetches.
func (r *Remotes) Close() {
	r.cancel()
	for _, one := range r.all {
		one.Stop()
	}
}

// get returns the key set that a configuration names.
func (r *Remotes) get(prefix string, cfg *jwtv3.RemoteJwks, s *Stats) (*Remote, error) {
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	name := prefix + "\x00" + string(wire)
	r.used[name] = true
	if one := r.all[name]; one != nil {
		return one, nil
	}
	one, err := newRemote(r.ctx, cfg, r.fetcher, s, r.log)
	if err != nil {
		return nil, err
	}
	r.all[name] = one
	return one, nil
}
