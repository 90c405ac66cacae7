// SPDX-License-Identifier: Apache-2.0

// Package extauthz is the filters envoy.filters.http.ext_authz and
// envoy.filters.network.ext_authz: an authorization server of the user's is
// asked about each request, over HTTP or gRPC, or about each connection, over
// gRPC. What the server doesn't plainly allow is denied.
package extauthz

import (
	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

// service asks an authorization server about a request.
type service interface {
	check(ex *http.Exchange) *decision
}

// verdict is what becomes of a request.
type verdict uint8

const (
	failed  verdict = iota // the server was not reached, or said nothing of use
	invalid                // the server asks for what can't be done
	denied
	allowed
)

// decision is an answer of the server. The zero value is a failure.
type decision struct {
	verdict verdict
	// status and body are the reply's if the request is denied, and maybe if
	// the check has failed; reply changes its fields.
	status int
	body   []byte
	reply  []mutation

	// What an allowed request is changed by, and its response.
	request     []mutation
	remove      [][]byte
	setQuery    []parameter
	removeQuery [][]byte
	response    []mutation

	metadata map[string]any
}

type parameter struct{ key, value string }

// Filter checks requests. It is immutable, but for its counters.
type Filter struct {
	service service
	request *requestOptions
	stats   *Stats
	charge  func(cluster string, status int) // may be nil

	enabled         match.Share
	enabledMetadata *metadataMatcher // nil: any
	denyAtDisable   bool

	failureModeAllow, failureHeader bool
	clearRoute                      bool
	clearRouteFor                   [][]byte // the fields that matter to routes; nil is all
	validate                        bool
	ignoreMetadata                  bool
	errorStatus                     int
	maxDeniedBody                   int // 0: no bound
}

// Names of the fields by which the filter, the server and the host talk.
var (
	partialBodyName     = []byte("x-envoy-auth-partial-body")
	headersToRemoveName = []byte("x-envoy-auth-headers-to-remove")
	failureAllowedName  = []byte("x-envoy-auth-failure-mode-allowed")

	valueTrue  = []byte("true")
	valueFalse = []byte("false")
)

// metadataNamespace is where the server's metadata goes.
const metadataNamespace = "envoy.filters.http.ext_authz"

// enabledSalt makes a decision of its own of the exchange's random number.
const enabledSalt = 0x589965cc75374cc3

// on reports whether the request is to be checked.
func (f *Filter) on(ex *http.Exchange) bool {
	return f.enabled.Takes(match.Mix(ex.Random, enabledSalt)) && (f.enabledMetadata == nil || f.enabledMetadata.match(&ex.Metadata))
}

// Waits implements filter.Waiter.
func (f *Filter) Waits(ex *http.Exchange) bool { return f.on(ex) }

// BodyLimit implements filter.BodyReader.
func (f *Filter) BodyLimit(*http.Exchange) int {
	if r := f.request; r.maxBody > 0 && !r.partialBody {
		return r.maxBody + 1 // one more tells that it is too long
	}
	return f.request.maxBody
}

// OnRequest asks the server and does what it says.
func (f *Filter) OnRequest(ex *http.Exchange) filter.Status {
	if !f.on(ex) {
		f.stats.all.disabled.Inc()
		if !f.denyAtDisable {
			return filter.Continue
		}
		return f.refuse(ex, f.errorStatus, nil, nil, "ext_authz_error")
	}
	if b := ex.EarlyBody; b != nil && f.request.maxBody > 0 && !f.request.partialBody && len(b.Data) > f.request.maxBody {
		ex.LocalReply = http.LocalReply{Status: 413, Body: "Payload Too Large", Err: errTooLarge}
		return filter.Reply
	}
	begun := http.Now()
	d := f.service.check(ex)
	if cancelled(ex) {
		ex.LocalReply.Err = errGone
		return filter.Reply
	}
	f.publish(ex, d, http.Now()-begun)
	c := f.stats.of(ex.ClusterName)
	switch d.verdict {
	case allowed:
		if f.sound(d) && f.apply(ex, d) {
			f.stats.count(c, outcomeOK)
			return filter.Continue
		}
	case denied:
		f.countDenied(ex, d, c)
		if f.sound(d) {
			return f.deny(ex, d)
		}
	case failed:
		return f.fail(ex, d, c)
	}
	f.stats.count(c, outcomeInvalid)
	return f.refuse(ex, 500, nil, nil, "ext_authz_invalid")
}

// publish hands the server's metadata to filters behind this one and to the
// access log.
func (f *Filter) publish(ex *http.Exchange, d *decision, took int64) {
	if len(d.metadata) == 0 {
		return
	}
	if f.ignoreMetadata {
		f.stats.all.ignoredMetadata.Inc()
		return
	}
	if d.verdict == allowed {
		d.metadata["ext_authz_duration"] = float64(took / 1e6)
	}
	ex.Metadata.Set(metadataNamespace, d.metadata)
}

func (f *Filter) countDenied(ex *http.Exchange, d *decision, c *counters) {
	f.stats.count(c, outcomeDenied)
	if f.charge != nil && ex.ClusterName != "" {
		f.charge(ex.ClusterName, d.status)
	}
}

func (f *Filter) deny(ex *http.Exchange, d *decision) filter.Status {
	if n := f.maxDeniedBody; n > 0 && len(d.body) > n {
		d.body = d.body[:n]
	}
	return f.refuse(ex, d.status, d.body, d.reply, "ext_authz_denied")
}

func (f *Filter) fail(ex *http.Exchange, d *decision, c *counters) filter.Status {
	f.stats.count(c, outcomeError)
	if f.failureModeAllow {
		f.stats.count(c, outcomeFailureAllowed)
		if f.failureHeader {
			ex.Req.Fields.Append(http.Field{ID: http.LookupHeader(failureAllowedName), Name: failureAllowedName, Value: valueTrue})
		}
		return filter.Continue
	}
	if !f.sound(d) {
		d = &decision{}
	}
	status := d.status
	if status == 0 {
		status = f.errorStatus
	}
	return f.refuse(ex, status, d.body, d.reply, "ext_authz_error")
}

// refuse answers the request. A route that answers itself leaves the reply
// alone, as in Envoy.
func (f *Filter) refuse(ex *http.Exchange, status int, body []byte, fields []mutation, detail string) filter.Status {
	var reply http.Fields
	for i := range fields {
		fields[i].apply(&reply)
	}
	if b := ex.EarlyBody; b != nil {
		ex.RequestBodyBytes = int64(len(b.Data))
	}
	ex.LocalReply = http.LocalReply{Status: status, Body: string(body), Headers: reply.All(), Bare: ex.ClusterName == "",
		Err: &http.Error{Side: http.SideLocal, Kind: http.KindPolicy, Status: status, Flag: http.FlagUnauthorizedExternal, Detail: detail}}
	return filter.Reply
}

// errTooLarge answers a body that the server is to see whole and can't.
var errTooLarge = &http.Error{Side: http.SideLocal, Kind: http.KindTooLarge, Status: 413,
	Detail: "request_payload_too_large", Body: "Payload Too Large", Close: true}

// errGone ends an exchange whose client left while the server was asked.
var errGone = &http.Error{Side: http.SideDownstream, Kind: http.KindClientGone,
	Flag: http.FlagDownstreamConnTermination, Detail: "downstream_remote_disconnect", Close: true}

func cancelled(ex *http.Exchange) bool {
	select {
	case <-ex.Cancelled:
		return true
	default: // also where nothing can cancel it
		return false
	}
}

// OnResponse changes the response as the server said.
func (f *Filter) OnResponse(ex *http.Exchange) {
	changes, _ := ex.State(f).([]mutation)
	for i := range changes {
		changes[i].apply(&ex.Resp.Fields)
	}
}
