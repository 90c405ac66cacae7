// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"slices"

	"pillion/proxy/http"
	"pillion/proxy/http/h1"
)

// ResponseReady edits the response before its head is written: what belongs
// to the upstream's connection goes, what belongs to ours comes, and the
// filters have their say. It implements forward.Downstream.
func (st *stream) ResponseReady() {
	ex, cfg := &st.ex, st.cfg
	h1.StripResponseHop(&ex.Resp)
	st.runResponseFilters()
	if st.trace.On() {
		st.trace.OnResponse(ex)
	}
	fields := &ex.Resp.Fields
	if !fields.Has(http.HeaderDate) {
		fields.AddID(http.HeaderDate, st.c.m.date.at(answered(ex)))
	}
	switch cfg.ServerHeader {
	case ServerOverwrite:
		fields.SetID(http.HeaderServer, cfg.ServerName)
	case ServerAppendIfAbsent:
		if !fields.Has(http.HeaderServer) {
			fields.AddID(http.HeaderServer, cfg.ServerName)
		}
	}
	if st.c.ending() || ex.Req.Upgrade != nil {
		// What a client sent behind a request to switch the protocol may be
		// that protocol, and is never read as a request.
		st.SetClosing()
	}
}

// answered is when the response's head came, of http.Now; that of a local reply comes
// now.
func answered(ex *http.Exchange) int64 {
	if ex.Err == nil && ex.UpstreamFirst != 0 {
		return ex.UpstreamFirst
	}
	return http.Now()
}

// CutShort tells that the response comes before all of the request has. Nobody waits for
// what is left of it, and a client of HTTP/1 has to know that the connection ends (RFC 9112
// section 9.6; Envoy: ActiveStream::encodeHeaders). It implements forward.Downstream.
func (st *stream) CutShort() {
	st.SetClosing()
	st.c.m.Stats.RqResponseBeforeComplete.Inc()
}

func (st *stream) runResponseFilters() {
	if st.chain == nil {
		return
	}
	for _, f := range st.chain.Response {
		f.OnResponse(&st.ex)
	}
}

var (
	textPlain  = []byte("text/plain")
	grpcType   = []byte("application/grpc")
	headerTrue = []byte("true")
)

// fail ends an exchange that got no response from an upstream: with a local
// reply if nothing was sent yet, else by breaking the connection off.
func (st *stream) fail(err *http.Error) {
	ex := &st.ex
	ex.Err = err
	ex.Flags |= err.Flag
	if ex.Details == "" {
		ex.Details = err.Detail
	}
	if st.Started() {
		st.SetClosing()
		return
	}
	status := ex.LocalReply.Status
	if status == 0 {
		status = err.Status
	}
	if status == 0 || err.Kind == http.KindClientGone {
		st.SetClosing()
		ex.Resp.Reset()
		return
	}
	if err.Close {
		st.SetClosing()
	}
	st.writeLocalReply(status, err)
}

// writeLocalReply sends ex.LocalReply (Envoy: Utility::sendLocalReply).
func (st *stream) writeLocalReply(status int, err *http.Error) {
	ex := &st.ex
	if err != errDirect { // which may have made a Location
		ex.Resp.Fields.Reset()
	}
	ex.Resp.Reason, ex.Resp.Upgrade, ex.Resp.Protocol = nil, nil, http.HTTP11
	body := ""
	// gRPC-Web goes by HTTP's status, and its filter words the rest.
	if ex.GRPC && !ex.GRPCWeb.On {
		st.grpcReplyHead(status, err)
	} else {
		body = st.replyHead(status)
	}
	fields := &ex.Resp.Fields
	for _, f := range ex.LocalReply.Headers {
		if f.ID != http.HeaderContentType || !fields.Has(http.HeaderContentType) { // gRPC's own stays
			fields.Append(f)
		}
	}
	if err.Kind == http.KindOverflow {
		fields.SetID(http.HeaderXEnvoyOverloaded, headerTrue)
	}
	if st.route != nil && !ex.LocalReply.Bare {
		st.route.ApplyResponse(ex, st.target)
	}
	if !st.RequestEnded() {
		st.CutShort()
	}
	st.ResponseReady()
	end := body == "" || ex.Req.Method == http.MethodHead
	if st.WriteHead(&ex.Resp, end) != nil {
		return
	}
	if !end {
		ex.ResponseBodyBytes = int64(len(body))
		_ = st.WriteBody([]byte(body), true)
	}
}

// replyHead begins the head of a local reply and returns its body.
func (st *stream) replyHead(status int) (body string) {
	ex := &st.ex
	if body = ex.LocalReply.Body; status == 204 || status == 304 {
		body = "" // RFC 9110 sections 15.3.5 and 15.4.5
	}
	ex.Resp.Status = status
	ex.Resp.Framing = http.Framing{Kind: http.BodyLength, Length: int64(len(body))}
	fields := &ex.Resp.Fields
	fields.SetID(http.HeaderContentLength, appendInt(ex.Scratch(20)[:0], len(body)))
	if body != "" && !fields.Has(http.HeaderContentType) && !namesType(ex.LocalReply.Headers) {
		fields.AddID(http.HeaderContentType, textPlain)
	}
	return body
}

// namesType reports whether a Content-Type is among the fields.
func namesType(fields []http.Field) bool {
	return slices.ContainsFunc(fields, func(f http.Field) bool { return f.ID == http.HeaderContentType })
}

// grpcReplyHead begins the head of a local reply to a gRPC client, which is
// all of it: a 200 with the status among the fields and the body as its message
// (gRPC over HTTP/2, "Trailers-Only").
func (st *stream) grpcReplyHead(status int, err *http.Error) {
	ex := &st.ex
	ex.Resp.Status = 200
	ex.Resp.Framing = http.Framing{Kind: http.BodyLength}
	fields := &ex.Resp.Fields
	fields.AddID(http.HeaderContentType, grpcType)
	fields.AddID(http.HeaderGRPCStatus, http.AppendGRPCStatus(ex.Scratch(20)[:0], err.GRPCStatus(status)))
	if body := ex.LocalReply.Body; body != "" {
		fields.AddID(http.HeaderGRPCMessage, http.AppendGRPCMessage(ex.Scratch(len(body))[:0], body))
	}
}

func appendInt(dst []byte, n int) []byte {
	if n >= 10 {
		dst = appendInt(dst, n/10)
	}
	return append(dst, byte('0'+n%10))
}

// finish ends the exchange: what is held back is sent, and the observers see
// it, each exactly once.
func (st *stream) finish() {
	ex := &st.ex
	if st.Flush() != nil && ex.Flags == 0 {
		ex.Flags |= http.FlagDownstreamConnTermination
		ex.Details = "downstream_remote_disconnect"
	}
	if ex.End == 0 {
		ex.End = http.Now()
	}
	if st.chain == nil {
		st.chain = st.cfg.NoRouteChain
	}
	if st.chain != nil {
		for _, f := range st.chain.Finish {
			f.OnFinish(ex)
		}
	}
	if st.upgrading {
		st.c.m.Stats.UpgradesActive.Dec()
	}
	if st.trace.Recorded() {
		st.trace.Finish(ex)
	}
	st.c.m.Stats.finished(ex)
	for _, l := range st.cfg.AccessLogs {
		l.Log(ex)
	}
}
