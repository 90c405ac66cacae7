// SPDX-License-Identifier: Apache-2.0

// Package router holds immutable route tables: which virtual host and route a
// request takes, what the route changes in request and response, and its
// timeout, retry, mirror and hash policies as data.
//
// A table is plain data, built by package config from an Envoy route
// configuration and never changed afterwards. Everything that runs for each
// request works without allocation unless its comment says otherwise.
// Behaviour follows Envoy 1.40.
package router

import (
	"bytes"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

// Options are the settings of a whole table.
type Options struct {
	// Name is that of the route configuration.
	Name string
	// IgnorePort leaves the port in the authority out of the look-up.
	IgnorePort bool
	// IgnorePathParameters matches paths only up to the first ';'.
	IgnorePathParameters bool
	// MostSpecificWins runs the header operations of the table first and
	// those of the route last; by default it is the other way round.
	MostSpecificWins bool
	// SuppressEnvoyHeaders leaves out x-envoy-original-path and -host.
	SuppressEnvoyHeaders bool
	Ops                  MessageOps
	// BareChain runs for redirects to TLS, which no route's overrides touch.
	BareChain *filter.Chain
}

// Table is a compiled route configuration. Immutable.
type Table struct {
	opt     *Options
	domains domainIndex
	toTLS   Route // answers requests that have to come by TLS
}

// TLSRequirement tells which requests to a virtual host must have come by TLS.
type TLSRequirement uint8

// The requirements.
const (
	TLSNone TLSRequirement = iota
	TLSExternal
	TLSAll
)

// VirtualHost is the routes of a set of domains. Immutable once its table is
// built. Tables with the same options can share it (NewSuccessor).
type VirtualHost struct {
	Name string
	// Routes are tried in order; the first that matches is taken.
	Routes     []Route
	RequireTLS TLSRequirement
	// IncludeAttemptCount tells upstreams by x-envoy-attempt-count which try
	// a request is; IncludeAttemptCountInResponse tells clients how many were
	// made; IncludeIsTimeoutRetry marks tries after a timeout by
	// x-envoy-is-timeout-retry.
	IncludeAttemptCount, IncludeAttemptCountInResponse, IncludeIsTimeoutRetry bool
	Ops                                                                       MessageOps

	opt   *Options  // of its tables
	paths *pathTree // nil: routes are looked at one by one
}

// Builder makes a Table.
type Builder struct{ t *Table }

// NewBuilder begins a table.
func NewBuilder(o Options) *Builder {
	t := &Table{opt: &o}
	t.toTLS = Route{Kind: Redirect, Chain: o.BareChain, Reply: &Reply{Status: 301, toTLS: true}}
	return &Builder{t: t}
}

// NewSuccessor begins a table with the options of another one, whose virtual hosts
// may be added to it as they are.
func NewSuccessor(of *Table) *Builder { return &Builder{t: &Table{opt: of.opt, toTLS: of.toTLS}} }

// Add enters a virtual host under its domains: exact names, "*.suffix",
// "prefix.*" and "*". The error names a domain that is taken or unusable.
func (b *Builder) Add(vh *VirtualHost, domains []string) error {
	if vh.opt != b.t.opt { // else it is shared with another table, which may be in use
		vh.opt = b.t.opt
		for i := range vh.Routes {
			vh.Routes[i].seal(vh)
		}
		vh.paths = newPathTree(vh.Routes)
	}
	for i, d := range domains {
		if err := b.t.domains.add(d, vh); err != nil {
			return &DomainError{Index: i, Domain: d, Reason: err.Error()}
		}
	}
	return nil
}

// Table ends the building.
func (b *Builder) Table() *Table {
	b.t.domains.seal()
	return b.t
}

// Name returns the name of the route configuration.
func (t *Table) Name() string { return t.opt.Name }

// Match finds the virtual host of a request and the first of its routes that
// takes it; nil, nil without a virtual host, and the virtual host with nil
// without a route. random decides routes that take only a share of requests.
func (t *Table) Match(h *http.RequestHead, random uint64) (*VirtualHost, *Route) {
	vh := t.domains.find(t.host(h.Authority))
	if vh == nil {
		return nil, nil
	}
	if vh.RequireTLS != TLSNone && vh.wantsTLS(h) {
		return vh, &t.toTLS
	}
	in := t.input(h, random)
	return vh, vh.route(&in)
}

// input splits a request into what criteria look at.
func (t *Table) input(h *http.RequestHead, random uint64) input {
	path, query := match.CutQuery(h.Path)
	if t.opt.IgnorePathParameters {
		if i := bytes.IndexByte(path, ';'); i >= 0 {
			path = path[:i]
		}
	}
	return input{head: h, path: path, query: query, random: random}
}

// host returns the part of an authority that domains are compared with.
func (t *Table) host(authority []byte) []byte {
	if t.opt.IgnorePort {
		return authority[:portStart(authority)]
	}
	return authority
}

// portStart returns the place of the colon before the port, or the length of
// an authority without one. What follows the last colon outside of brackets
// counts as a port, digits or not, as in Envoy.
func portStart(authority []byte) int {
	for i := len(authority) - 1; i >= 0; i-- {
		switch authority[i] {
		case ':':
			return i
		case ']':
			return len(authority)
		}
	}
	return len(authority)
}

// wantsTLS reports whether a request came without the TLS it needs. What
// counts is x-forwarded-proto, which the connection manager has set or
// trusts, so that TLS may end in front of us.
func (vh *VirtualHost) wantsTLS(h *http.RequestHead) bool {
	if string(scheme(h)) == "https" {
		return false
	}
	if vh.RequireTLS == TLSExternal {
		v, _ := h.Fields.Get(http.HeaderXEnvoyInternal)
		return string(v) != "true"
	}
	return true
}

// scheme is how the request reached the first proxy.
func scheme(h *http.RequestHead) []byte {
	if v, ok := h.Fields.Get(http.HeaderXForwardedProto); ok && (string(v) == "http" || string(v) == "https") {
		return v
	}
	return h.Scheme
}
