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
	errNormalizedPath = &http.Error{Side: http.SideLocal, Kind: http.KindDirect, Status: 307, Detail: "path_normalization_failed"}
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
	if st.choose() && st.filterRequest(true) == filterPassed {
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
	err := st.chooseRoute()
	if st.cfg.Tracing != nil && err != errUpgrade {
		st.beginTrace()
	}
	if err != nil {
		st.localError(err)
		return false
	}
	return true
}

// chooseRoute finds the route, its target and the chain that they ask for.
func (st *stream) chooseRoute() *http.Error {
	ex := &st.ex
	table := st.cfg.Routes.Load()
	if table == nil {
		return errNoTable
	}
	vh, route := table.Match(&ex.Req, ex.Random)
	if vh != nil {
		ex.VirtualHost = vh.Name
	}
	if ex.Req.Upgrade != nil && !st.mayUpgrade(route) {
		st.c.m.Stats.RqUpgradeRefused.Inc()
		return errUpgrade
	}
	if route == nil {
		st.c.m.Stats.NoRoute.Inc()
		return errNoRoute
	}
	ex.RouteName = route.Name
	st.route, st.target, st.chain = route, nil, route.Chain
	ex.ClusterName, ex.Cluster = "", nil
	if route.Kind == router.Forward {
		st.target = route.Target(ex.Random)
		st.chain = st.target.Chain
		ex.ClusterName, ex.Cluster = st.target.Cluster.Name(), st.target.Cluster
	}
	return nil
}

// filtered is how far the request phase has come.
type filtered uint8

const (
	filterPassed  filtered = iota
	filterReplied          // a filter has answered
	filterWaits            // the next filter has to wait, which can't be done here
)

// filterRequest runs the request phase of the chain, or goes on with it. On
// HTTP/1 a filter that waits is simply waited for. On HTTP/2, where wait is
// false at first, the exchange gets a goroutine of its own for that.
func (st *stream) filterRequest(wait bool) filtered {
	waits, err := st.runRequestFilters(wait)
	if waits {
		return filterWaits
	}
	st.wrap()
	if err != nil {
		st.fail(err)
		return filterReplied
	}
	return filterPassed
}

// runRequestFilters runs the filters from st.at on. It returns why one of them
// answers, nil if none does.
func (st *stream) runRequestFilters(wait bool) (waits bool, err *http.Error) {
	ex := &st.ex
	for ; st.at < len(st.chain.Request); st.at++ {
		f := st.chain.Request[st.at]
		if w, ok := f.(filter.Waiter); ok && w.Waits(ex) {
			if !wait {
				return true, nil
			}
			st.c.setActive(&st.call)
			ex.Held = true
			ex.Cancelled = st.call.Cancelled()
			if err := st.readEarly(f); err != nil {
				return false, err
			}
		}
		if f.OnRequest(ex) == filter.Reply {
			if err := ex.LocalReply.Err; err != nil {
				return false, err
			}
			return false, errFiltered
		}
		if ex.Reroute {
			if err := st.reroute(); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// reroute chooses the route again, because a filter has changed the request.
// Filters that stand behind that one are those of the new route.
func (st *stream) reroute() *http.Error {
	st.ex.Reroute = false
	ran := st.chain
	if err := st.chooseRoute(); err != nil {
		st.ex.Details, st.ex.LocalReply.Body = err.Detail, err.Body
		return err
	}
	if st.trace.On() {
		st.trace.SetRoute(&st.ex, st.route.Operation, st.route.Tracing())
	}
	st.at = st.chain.After(ran, st.at) - 1
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
