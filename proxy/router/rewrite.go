// SPDX-License-Identifier: Apache-2.0

package router

import (
	"bytes"

	"pillion/proxy/http"
	"pillion/proxy/match"
)

// Rewrite changes the target of a request. Immutable.
type Rewrite struct {
	// Prefix replaces what the path criterion matched, unless it is nil.
	Prefix []byte
	// Pattern replaces matches in the path, unless it is nil.
	Pattern *match.Rewrite
	// Host replaces the authority, unless it is nil.
	Host []byte
	// AppendForwardedHost keeps the authority that Host replaces in
	// x-forwarded-host.
	AppendForwardedHost bool
}

// ApplyRequest makes the route's changes to ex.Req for the target chosen: its
// header operations, then the authority, then the path, of which a copy stays
// in ex.OriginalPath. It is to be called once, before the first try.
//
// The order and its odd corners are Envoy's (RouteEntryImplBase::
// finalizeRequestHeaders, WeightedClusterEntry): header values are formatted
// before the route rewrites anything, but after a target has replaced the
// authority, which leaves no trace of its own in x-envoy-original-host.
func (r *Route) ApplyRequest(ex *http.Exchange, t *Target) {
	if r.vhost == nil {
		return
	}
	if t != nil {
		t.Ops.Request.apply(&ex.Req.Fields, ex, false)
		if t.HostRewrite != nil {
			ex.Req.Authority = t.HostRewrite
		}
	}
	vh, opt := r.vhost, r.vhost.opt
	levels := [3]*HeaderOps{r.Ops.Request, vh.Ops.Request, opt.Ops.Request}
	if opt.MostSpecificWins {
		levels[0], levels[2] = levels[2], levels[0]
	}
	for _, ops := range levels {
		ops.apply(&ex.Req.Fields, ex, false)
	}
	if r.Rewrite != nil {
		r.rewriteHost(ex)
		r.rewritePath(ex)
	}
}

// ApplyResponse makes the changes to ex.Resp that belong to the route and the
// target, which is nil for an answer of the proxy's own. Envoy makes them to
// local replies as well, but not to those for which no route was found.
func (r *Route) ApplyResponse(ex *http.Exchange, t *Target) {
	if r.vhost == nil {
		return
	}
	if t != nil {
		t.Ops.Response.apply(&ex.Resp.Fields, ex, true)
	}
	vh, opt := r.vhost, r.vhost.opt
	levels := [3]*HeaderOps{r.Ops.Response, vh.Ops.Response, opt.Ops.Response}
	if opt.MostSpecificWins {
		levels[0], levels[2] = levels[2], levels[0]
	}
	for _, ops := range levels {
		ops.apply(&ex.Resp.Fields, ex, true)
	}
	if r.More != nil && len(r.More.Hash) > 0 {
		r.setAffinityCookie(ex)
	}
}

func (r *Route) rewriteHost(ex *http.Exchange) {
	w := r.Rewrite
	if w.Host == nil {
		return
	}
	old := ex.Req.Authority
	ex.Req.Authority = w.Host
	if !r.vhost.opt.SuppressEnvoyHeaders {
		ex.Req.Fields.SetID(http.HeaderXEnvoyOriginalHost, old)
	}
	if w.AppendForwardedHost && len(old) > 0 {
		appendForwardedHost(ex, old)
	}
}

// appendForwardedHost puts a host at the end of x-forwarded-host, of which one
// line remains, unless it stands there already.
func appendForwardedHost(ex *http.Exchange, host []byte) {
	fields := &ex.Req.Fields
	size, lines := 0, 0
	var last []byte
	for i := range fields.All() {
		if f := fields.At(i); f.ID == http.HeaderXForwardedHost {
			size += len(f.Value) + 1
			last = f.Value
			lines++
		}
	}
	if lines == 0 {
		fields.AddID(http.HeaderXForwardedHost, host)
		return
	}
	if i := bytes.LastIndexByte(last, ','); i >= 0 {
		last = last[i+1:]
	}
	repeated := bytes.Equal(bytes.TrimSpace(last), host)
	if repeated && lines == 1 {
		return
	}
	v := ex.Scratch(size + len(host))[:0]
	for i := range fields.All() {
		if f := fields.At(i); f.ID == http.HeaderXForwardedHost {
			if len(v) > 0 {
				v = append(v, ',')
			}
			v = append(v, f.Value...)
		}
	}
	if !repeated {
		v = append(append(v, ','), host...)
	}
	fields.SetID(http.HeaderXForwardedHost, v)
}

// rewritePath replaces the path. A rewrite to nothing at all is not made.
func (r *Route) rewritePath(ex *http.Exchange) {
	old := ex.Req.Path
	path, _ := match.CutQuery(old)
	var buf [1024]byte
	var out []byte
	switch w := r.Rewrite; {
	case w.Prefix != nil:
		out = append(append(buf[:0], w.Prefix...), old[r.Match.Path.Matched(path):]...)
	case w.Pattern != nil:
		out = w.Pattern.Append(buf[:0], path)
		if len(out) == 0 {
			return
		}
		out = append(out, old[len(path):]...)
	default:
		return
	}
	ex.OriginalPath = old
	ex.Req.Path = ex.KeepBytes(out)
	if !r.vhost.opt.SuppressEnvoyHeaders {
		ex.Req.Fields.SetID(http.HeaderXEnvoyOriginalPath, old)
	}
}
