// SPDX-License-Identifier: Apache-2.0

package source

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
)

// The validate_*.go files hold each kind to what Istio's admission webhook refuses. The
// rules come from pkg/config/validation of Istio 1.31, where each is a function named
// alike; where this package is stricter or more lenient a comment says why.

// keysOf returns a map's keys in order, so that problems come in the same order each time.
func keysOf[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := slices.AppendSeq(make([]string, 0, len(m)), maps.Keys(m))
	slices.Sort(keys)
	return keys
}

// maxPort is the highest port number.
const maxPort = 65535

// checkPort checks a port's number.
func (s *subject) checkPort(at *place, field string, port uint32) bool {
	if port < 1 || port > maxPort {
		s.failAt(at, field, "%d isn't a port; wants 1 to 65535", port)
		return false
	}
	return true
}

// checkDuration checks a span of time that isn't optional once it is given: Envoy counts
// most of them in milliseconds, and takes zero for "never".
func (s *subject) checkDuration(at *place, field string, d *durationpb.Duration) {
	if d == nil {
		return
	}
	switch span := d.AsDuration(); {
	case span < time.Millisecond:
		s.failAt(at, field, "%s is too short; wants at least 1ms", span)
	case span%time.Millisecond != 0:
		s.failAt(at, field, "%s is too fine; wants whole milliseconds", span)
	}
}

// checkPercent checks a fractional percentage. Envoy's smallest step is a millionth.
func (s *subject) checkPercent(at *place, field string, p *networking.Percent) {
	if p == nil {
		return
	}
	if v := p.Value; v < 0 || v > 100 || v > 0 && v < 0.0001 {
		s.failAt(at.key(field), "value", "%v isn't a percentage; wants 0, or 0.0001 to 100", v)
	}
}

// checkCount checks a number that may not be negative.
func (s *subject) checkCount(at *place, field string, n int32) {
	if n < 0 {
		s.failAt(at, field, "%d is negative; wants 0 or more", n)
	}
}

// checkWholePercent checks a percentage without a fraction.
func (s *subject) checkWholePercent(at *place, field string, v int32) {
	if v < 0 || v > 100 {
		s.failAt(at, field, "%d isn't a percentage; wants 0 to 100", v)
	}
}

// maxRegex is the longest regular expression that Istio lets through to Envoy.
const maxRegex = 1024

// checkRegex checks an expression in the syntax of RE2, which is also Go's.
func (s *subject) checkRegex(at *place, field, re string) {
	if re == "" {
		s.failAt(at, field, "a regular expression can't be empty")
		return
	}
	if len(re) > maxRegex {
		s.failAt(at, field, "a regular expression of %d bytes is too long; at most %d", len(re), maxRegex)
		return
	}
	if _, err := regexp.Compile(re); err != nil {
		s.failAt(at, field, "not a regular expression of RE2: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
}

// checkMatch checks a string match. An empty prefix matches everything, which only URIs
// may (Envoy's StringMatcher refuses it; its RouteMatch doesn't).
func (s *subject) checkMatch(at *place, m *networking.StringMatch, emptyPrefix bool) {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Prefix:
		if t.Prefix == "" && !emptyPrefix {
			s.failAt(at, "prefix", "a prefix can't be empty; to match any value leave the match itself empty")
		}
	case *networking.StringMatch_Regex:
		s.checkRegex(at, "regex", t.Regex)
	}
}

// checkLabels checks labels that select or describe workloads.
func (s *subject) checkLabels(at *place, labels map[string]string) {
	for _, k := range keysOf(labels) {
		if reason := badLabelKey(k); reason != "" {
			s.failAt(at, k, "%q %s", clip(k), reason)
		}
		if reason := badLabelValue(labels[k]); reason != "" {
			s.failAt(at, k, "%q %s", clip(labels[k]), reason)
		}
	}
}

// checkSelector checks the labels of a workload selector that is given.
func (s *subject) checkSelector(at *place, labels map[string]string) {
	for _, k := range keysOf(labels) {
		switch {
		case k == "":
			s.failAt(at, "", "an empty key selects nothing")
		case strings.Contains(k+labels[k], "*"):
			s.failAt(at, k, "a selector takes no wildcard")
		}
	}
	if len(labels) == 0 {
		s.warnAt(at, "", "a selector without labels selects every workload of the namespace")
	}
}

// checkExportTo checks a list of namespaces to which a resource is visible.
func (s *subject) checkExportTo(at *place, exportTo []string, noneAllowed bool) {
	seen := map[string]bool{}
	for i, e := range exportTo {
		here := at.key("exportTo").item(i)
		ns := e
		if ns == "." {
			ns = s.Namespace
		}
		switch {
		case seen[ns]:
			s.failAt(here, "", "%q is given twice", clip(e))
		case e == "~" && !noneAllowed:
			s.failAt(here, "", `"~" (visible to nobody) is for ServiceEntry only`)
		case (e == "~" || e == "*") && len(exportTo) > 1:
			s.failAt(here, "", "%q can't be given with others", e)
		case e != "~" && e != "*" && e != "." && badLabel(e) != "":
			s.failAt(here, "", `%q is neither ".", "*" nor a namespace`, clip(e))
		}
		seen[ns] = true
	}
}

// checkHeaders checks the header operations of a route or a destination.
func (s *subject) checkHeaders(at *place, h *networking.Headers) {
	if h == nil {
		return
	}
	at = at.key("headers")
	for _, side := range []struct {
		name    string
		ops     *networking.Headers_HeaderOperations
		request bool
	}{{"request", h.Request, true}, {"response", h.Response, false}} {
		here := at.key(side.name)
		s.checkHeaderValues(here.key("set"), side.ops.GetSet(), side.request)
		s.checkHeaderValues(here.key("add"), side.ops.GetAdd(), side.request)
		for i, name := range side.ops.GetRemove() {
			s.checkOperationName(here.key("remove").item(i), name, false)
		}
	}
}

func (s *subject) checkHeaderValues(at *place, values map[string]string, authority bool) {
	for _, name := range keysOf(values) {
		s.checkOperationName(at.key(name), name, authority)
		if reason := badHeaderValue(values[name]); reason != "" {
			s.failAt(at.key(name), "", "%q %s", clip(values[name]), reason)
		}
	}
}

// checkOperationName checks the name of a header that an operation changes. Requests may
// have their authority set, and nothing else that carries the message itself.
func (s *subject) checkOperationName(at *place, name string, authority bool) {
	switch {
	case isAuthority(name) && authority:
	case strings.EqualFold(name, "host"):
		s.failAt(at, "", "the header %q can't be changed here", name)
	case strings.HasPrefix(name, ":"):
		s.failAt(at, "", "the pseudo-header %q can't be changed", clip(name))
	default:
		// Istio lets any other name through and Envoy then refuses the resource.
		if reason := badHeaderName(name); reason != "" {
			s.failAt(at, "", "%q %s", clip(name), reason)
		}
	}
}

func isAuthority(name string) bool {
	return strings.EqualFold(name, ":authority") || strings.EqualFold(name, "host")
}

// protocol is a port's protocol in Istio's terms.
type protocol struct {
	known, http, tls bool
}

// parseProtocol reads a protocol's name, which may be in letters of any case.
func parseProtocol(name string) protocol {
	switch strings.ToLower(name) {
	case "http", "http2", "grpc", "grpc-web", "http_proxy":
		return protocol{known: true, http: true}
	case "https", "tls":
		return protocol{known: true, tls: true}
	case "tcp", "udp", "mongo", "redis", "mysql":
		return protocol{known: true}
	}
	return protocol{}
}

const protocolNames = "HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP, UDP, MONGO, MYSQL, REDIS"

// checkProtocol checks a protocol's name; optional says that it may be empty, which
// means to find out from the traffic.
func (s *subject) checkProtocol(at *place, field, name string, optional bool) {
	if name == "" && optional || parseProtocol(name).known {
		return
	}
	s.failAt(at, field, "%q isn't a protocol; wants one of %s", clip(name), protocolNames)
}

// checkPortName checks a port's name.
func (s *subject) checkPortName(at *place, field, name string) {
	if reason := badLabel(name); reason != "" {
		s.failAt(at, field, "%q %s", clip(name), reason)
	}
}

// checkBind checks the address a listener binds.
func (s *subject) checkBind(at *place, bind string) {
	if bind != "" && !isIP(bind) {
		s.failAt(at, "bind", "%q isn't an IP address", clip(bind))
	}
}
