// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"math/rand/v2"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/router"
)

// Failures that the manager finds itself; texts and flags are Envoy's
// (source/common/http/conn_manager_impl.cc).
var (
	errNoRoute = &http.Error{Side: http.SideLocal, Kind: http.KindNoRoute, Status: 404, Flag: http.FlagNoRoute,
		Detail: "route_not_found", GRPC: 12}
	errNoTable = &http.Error{Side: http.SideLocal, Kind: http.KindNoRoute, Status: 404, Flag: http.FlagNoRoute,
		Detail: "route_configuration_not_found", GRPC: 12}
	errBadPath = &http.Error{Side: http.SideDownstream, Kind: http.KindProtocol, Status: 400,
		Detail: "path_normalization_failed", Close: true}
	errEscapedSlash = &http.Error{Side: http.SideDownstream, Kind: http.KindProtocol, Status: 400,
		Detail: "path_normalization_failed", Close: true}
	errNormalizedPath = &http.Error{Side: http.SideLocal, Kind: http.KindDirect, Status: 307, Detail: "path_with_escaped_slashes_redirected"}
	errNoPath         = &http.Error{Side: http.SideDownstream, Kind: http.KindProtocol, Status: 404, Detail: "absolute_path_rejected"}
	// What the client sends after it asked for another protocol may be that
	// protocol and no request, so the connection ends with the refusal.
	errUpgrade = &http.Error{Side: http.SideDownstream, Kind: http.KindUnsupported, Status: 403,
		Detail: "upgrade_failed", Close: true}
	errOldHTTP = &http.Error{Side: http.SideDownstream, Kind: http.KindUnsupported, Status: 426,
		Detail: "low_version", Close: true}
	errDirect   = &http.Error{Side: http.SideLocal, Kind: http.KindDirect, Detail: "direct_response"}
	errFiltered = &http.Error{Side: http.SideLocal, Kind: http.KindPolicy, Detail: "filter_reply"}
)

// handle takes a request from its head to the end of its response.
func (st *stream) handle() {
	if st.choose() && st.filterRequest() {
		st.answer()
	}
}

// choose prepares the request and finds its route and chain. false: it was
// answered.
func (st *stream) choose() bool {
	ex := &st.ex
	ex.Random = rand.Uint64()
	ex.GRPC = ex.Req.IsGRPC()
	if err := st.prepare(); err != nil {
		st.localError(err)
		return false
	}
	table := st.cfg.Routes.Load()
	if table == nil {
		st.localError(errNoTable)
		return false
	}
	vh, route := table.Match(&ex.Req, ex.Random)
	if vh != nil {
		ex.VirtualHost = vh.Name
	}
	if ex.Req.Upgrade != nil && !st.admitUpgrade(route) {
		st.c.m.Stats.RqUpgradeRefused.Inc()
		st.localError(errUpgrade)
		return false
	}
	if route == nil {
		st.c.m.Stats.NoRoute.Inc()
		st.localError(errNoRoute)
		return false
	}
	ex.RouteName = route.Name
	st.route, st.chain = route, route.Chain
	if route.Kind == router.Forward {
		st.target = route.Target(ex.Random)
		st.chain = st.target.Chain
	}
	return true
}

// mustWait reports whether a filter has to wait for something.
func (st *stream) mustWait() bool {
	for _, f := range st.chain.Request {
		if w, ok := f.(filter.Waiter); ok && w.Waits(&st.ex) {
			return true
		}
	}
	return false
}

// filterRequest runs the request phase of the chain. false: a filter has
// answered. On HTTP/1 a filter that waits is simply waited for; on HTTP/2 such
// an exchange has a goroutine of its own.
func (st *stream) filterRequest() bool {
	if err := st.runRequestFilters(); err != nil {
		st.wrap()
		st.fail(err)
		return false
	}
	st.wrap()
	return true
}

// runRequestFilters returns why a filter answers, nil if none does.
func (st *stream) runRequestFilters() *http.Error {
	ex := &st.ex
	for _, f := range st.chain.Request {
		if w, ok := f.(filter.Waiter); ok && w.Waits(ex) {
			st.c.setActive(&st.call)
			ex.Cancelled = st.call.Cancelled()
		}
		if f.OnRequest(ex) == filter.Reply {
			if err := ex.LocalReply.Err; err != nil {
				return err
			}
			return errFiltered
		}
	}
	return nil
}

// answer does what the route says.
func (st *stream) answer() {
	ex, route := &st.ex, st.route
	switch route.Kind {
	case router.Forward:
		st.c.setActive(&st.call)
		if err := st.call.Run(st.cfg.Forward, ex, st, route, st.target); err != nil {
			st.fail(err)
		}
	default:
		status, body := route.Direct(ex)
		if route.Kind == router.Redirect {
			st.c.m.Stats.Redirects.Inc()
		} else {
			st.c.m.Stats.Direct.Inc()
		}
		ex.LocalReply.Status, ex.LocalReply.Body = status, body
		ex.Details = errDirect.Detail
		st.fail(errDirect)
	}
}

// localError ends the exchange with an error whose texts are fixed.
func (st *stream) localError(err *http.Error) {
	st.ex.Details = err.Detail
	st.ex.LocalReply.Body = err.Body
	st.fail(err)
}
