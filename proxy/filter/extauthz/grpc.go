// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 servers still set deprecated fields

package extauthz

import (
	"bytes"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// checkPath is the method of envoy.service.auth.v3.Authorization.
const checkPath = "/envoy.service.auth.v3.Authorization/Check"

// maxAnswer bounds what a server may answer, in octets.
const maxAnswer = 1 << 20

// grpcCaller calls the Check method. Immutable.
type grpcCaller struct{ to *filter.GRPCService }

// header is a field of a call that configuration asks for.
type header struct {
	name  []byte
	value filter.Value
}

// call makes the call. ok is false without an answer that is one.
func (g grpcCaller) call(req *authv3.CheckRequest, ex *http.Exchange, cancel <-chan struct{}) (answer *authv3.CheckResponse, ok bool) {
	frame, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, filter.GRPCPrefix, 1024), req)
	if err != nil {
		return nil, false
	}
	c := g.to.Call(checkPath, frame, ex)
	c.MaxBody, c.Cancel, c.AnyOnce = maxAnswer, cancel, true
	a, failure := g.to.Client.Do(c)
	if failure != nil {
		return nil, false
	}
	return readAnswer(a)
}

// readAnswer reads the message of an answer. What isn't exactly one whole message of
// a call that ended well is no answer.
func readAnswer(a *filter.ClientAnswer) (*authv3.CheckResponse, bool) {
	p, err := filter.GRPCAnswer(a)
	if err != nil {
		return nil, false
	}
	m := &authv3.CheckResponse{}
	if proto.Unmarshal(p, m) != nil {
		return nil, false
	}
	return m, true
}

// grpcService asks over gRPC. It implements service. Immutable.
type grpcService struct {
	grpcCaller
	request *requestOptions
}

func (g *grpcService) check(ex *http.Exchange) *decision {
	answer, ok := g.call(g.request.message(ex), ex, ex.Cancelled)
	if !ok {
		return &decision{}
	}
	return decide(answer)
}

// decide reads a CheckResponse (Envoy: GrpcClientImpl::onSuccess).
func decide(m *authv3.CheckResponse) *decision {
	d := &decision{metadata: m.GetDynamicMetadata().AsMap()}
	okay := m.GetOkResponse()
	if own := okay.GetDynamicMetadata(); own != nil { // deprecated, and it wins
		d.metadata = own.AsMap()
	}
	bad := false
	switch {
	case m.GetStatus().GetCode() == 0:
		d.verdict = allowed
		d.request = mutations(okay.GetHeaders(), requestAction)
		d.response = mutations(okay.GetResponseHeadersToAdd(), responseAction(&bad))
		for _, name := range okay.GetHeadersToRemove() {
			d.remove = append(d.remove, []byte(name))
		}
		for _, q := range okay.GetQueryParametersToSet() {
			d.setQuery = append(d.setQuery, parameter{q.GetKey(), q.GetValue()})
		}
		for _, key := range okay.GetQueryParametersToRemove() {
			d.removeQuery = append(d.removeQuery, []byte(key))
		}
	case m.GetErrorResponse() != nil:
		d.verdict = failed
		d.local(m.GetErrorResponse(), &bad)
	default:
		d.verdict, d.status = denied, 403
		d.local(m.GetDeniedResponse(), &bad)
	}
	if bad {
		d.verdict = invalid
	}
	return d
}

// local reads the reply that a server wants sent.
func (d *decision) local(r *authv3.DeniedHttpResponse, bad *bool) {
	if code := r.GetStatus().GetCode(); code != 0 {
		d.status = int(code)
		// Others are no final answers, and would leave the client waiting.
		*bad = *bad || code < 200 || code > 599
	}
	d.body = []byte(r.GetBody())
	d.reply = mutations(r.GetHeaders(), replyAction)
}

func mutations(list []*corev3.HeaderValueOption, actionOf func(*corev3.HeaderValueOption) action) []mutation {
	var out []mutation
	for _, o := range list {
		value := []byte(o.GetHeader().GetValue())
		if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
			value = bytes.Clone(raw)
		}
		m := newMutation(actionOf(o), []byte(o.GetHeader().GetKey()), value)
		out = append(out, m)
	}
	return out
}

// requestAction: append_action is not heeded on the way up, as in Envoy 1.40.
// What has to be appended and isn't there is left out.
func requestAction(o *corev3.HeaderValueOption) action {
	if o.GetAppend().GetValue() { // deprecated, and servers use it
		return appendTo
	}
	return overwrite
}

// replyAction: each field of a reply is a line of its own, as Set-Cookie needs.
func replyAction(*corev3.HeaderValueOption) action { return add }

// responseAction returns what reads the action of a response's field, and sets
// bad for one that is none.
func responseAction(bad *bool) func(*corev3.HeaderValueOption) action {
	return func(o *corev3.HeaderValueOption) action {
		if old := o.GetAppend(); old != nil { // deprecated, and servers use it
			if old.GetValue() {
				return add
			}
			return overwrite
		}
		switch o.GetAppendAction() {
		case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
			return add
		case corev3.HeaderValueOption_ADD_IF_ABSENT:
			return addIfAbsent
		case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
			return overwrite
		case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
			return overwriteIfExists
		}
		*bad = true
		return overwrite
	}
}
