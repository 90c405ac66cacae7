// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	networking "istio.io/api/networking/v1alpha3"
)

// headerOps is what to do to the headers of a request and its response.
type headerOps struct {
	requestAdd, responseAdd       []*corev3.HeaderValueOption
	requestRemove, responseRemove []string
	authority                     string // to be written over the request's; "" leaves it
}

// newHeaderOps converts a route's or destination's header operations. The authority
// is no header to Envoy: writing it is a host rewrite. Other pseudo headers can't be
// changed and are left out.
func newHeaderOps(in *networking.Headers) headerOps {
	req, resp := in.GetRequest(), in.GetResponse()
	set, authority := headerValues(req.GetSet(), corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	add, added := headerValues(req.GetAdd(), corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	if authority == "" {
		authority = added
	}
	respSet, _ := headerValues(resp.GetSet(), corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	respAdd, _ := headerValues(resp.GetAdd(), corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	return headerOps{
		requestAdd:     append(set, add...),
		responseAdd:    append(respSet, respAdd...),
		requestRemove:  ordinary(req.GetRemove()),
		responseRemove: ordinary(resp.GetRemove()),
		authority:      authority,
	}
}

// headerValues lists headers by name, and returns the authority apart.
func headerValues(in map[string]string, action corev3.HeaderValueOption_HeaderAppendAction) ([]*corev3.HeaderValueOption, string) {
	if len(in) == 0 {
		return nil, ""
	}
	authority := ""
	out := make([]*corev3.HeaderValueOption, 0, len(in))
	for _, name := range sortedKeys(in) {
		switch {
		case isAuthority(name):
			authority = in[name]
		case isPseudo(name):
		default:
			out = append(out, &corev3.HeaderValueOption{
				Header:       &corev3.HeaderValue{Key: name, Value: in[name]},
				AppendAction: action,
			})
		}
	}
	return out, authority
}

// isPseudo: the name stands for a part of the request line.
func isPseudo(name string) bool {
	return strings.HasPrefix(name, ":") || strings.EqualFold(name, "host")
}

func isAuthority(name string) bool {
	return strings.EqualFold(name, ":authority") || strings.EqualFold(name, "host")
}

func ordinary(names []string) []string {
	var out []string
	for _, n := range names {
		if !isPseudo(n) {
			out = append(out, n)
		}
	}
	return out
}
