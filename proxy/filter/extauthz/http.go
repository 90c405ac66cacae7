// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"bytes"
	"strings"
	"time"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

// names is a set of field names, by matchers.
type names []match.String

func (n names) has(name string) bool {
	if len(n) == 0 {
		return false
	}
	b := []byte(name)
	for i := range n {
		if n[i].Match(b) {
			return true
		}
	}
	return false
}

// httpService asks by a request like the one it asks about. It implements
// service. Immutable.
type httpService struct {
	client  filter.Client
	timeout time.Duration
	request *requestOptions

	pathPrefix, pathOverride string
	add                      []header

	// Which fields of the answer go where.
	upstream, upstreamAppend names
	onSuccess, toMetadata    names
	toClient                 names // nil: all
}

func (s *httpService) check(ex *http.Exchange) *decision {
	a, err := s.client.Do(s.call(ex))
	if err != nil {
		return &decision{}
	}
	return s.decide(a)
}

// call makes the request (Envoy: RawHttpClientImpl::check).
func (s *httpService) call(ex *http.Exchange) *filter.ClientCall {
	c := &filter.ClientCall{Timeout: s.timeout, Cancel: ex.Cancelled, MaxBody: maxAnswer, HasBody: true, AnyOnce: true}
	var head http.RequestHead
	head.RawMethod, head.Scheme = ex.Req.RawMethod, ex.Req.Scheme
	head.Authority, head.Path = ex.Req.Authority, ex.Req.Path
	put := func(name string, value []byte) {
		if fl := []byte(name); fl[0] != ':' && !framing(http.LookupHeader(fl)) {
			head.Fields.Add(fl, value)
		}
	}
	if s.request.rawHeaders {
		s.request.headers(ex, put)
	} else {
		for name, value := range s.request.merged(ex) {
			put(name, []byte(value))
		}
	}
	body, partial, ok := s.request.body(ex)
	if ok {
		c.Body = body
		put(string(partialBodyName), boolText(partial))
	}
	for _, h := range s.add {
		m := newMutation(overwrite, h.name, h.value.Append(nil, ex))
		if m.sound() && m.soundPart() {
			m.applyRequest(&head)
		}
	}
	path := s.pathPrefix + string(head.Path)
	if s.pathOverride != "" {
		path = s.pathOverride
	}
	filter.AddExpectedTimeout(&head.Fields, s.timeout)
	head.Fields.SetID(http.HeaderXEnvoyInternal, valueTrue)
	c.Method, c.Path, c.Authority = string(head.RawMethod), path, string(head.Authority)
	c.Fields = head.Fields
	return c
}

// decide reads the answer (Envoy: RawHttpClientImpl::toResponse). Only a 200
// allows.
func (s *httpService) decide(a *filter.ClientAnswer) *decision {
	if a.Status >= 500 {
		return &decision{}
	}
	d := &decision{metadata: map[string]any{}}
	if a.Status == 200 {
		d.verdict = allowed
	} else {
		d.verdict, d.status, d.body = denied, a.Status, a.Body
	}
	for _, fl := range a.Fields.All() {
		name := strings.ToLower(string(fl.Name))
		switch {
		case name == string(headersToRemoveName):
			if d.verdict == allowed {
				d.remove = append(d.remove, splitNames(fl.Value)...)
			}
			continue
		case d.verdict == denied && (s.toClient == nil || s.toClient.has(name)):
			d.reply = append(d.reply, newMutation(add, fl.Name, fl.Value))
		case d.verdict == allowed:
			s.allow(d, name, &fl)
		}
		if s.toMetadata.has(name) {
			d.metadata[name] = printable(fl.Value)
		}
	}
	return d
}

// allow takes what a field of a good answer says.
func (s *httpService) allow(d *decision, name string, fl *http.Field) {
	if s.upstream.has(name) {
		d.request = append(d.request, newMutation(overwrite, fl.Name, fl.Value))
	}
	if s.upstreamAppend.has(name) {
		d.request = append(d.request, newMutation(add, fl.Name, fl.Value))
	}
	if s.onSuccess.has(name) {
		d.response = append(d.response, newMutation(add, fl.Name, fl.Value))
	}
}

func splitNames(list []byte) (out [][]byte) {
	for name := range bytes.SplitSeq(list, []byte(",")) {
		if name = bytes.ToLower(bytes.TrimSpace(name)); len(name) > 0 {
			out = append(out, name)
		}
	}
	return out
}
