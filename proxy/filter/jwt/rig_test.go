// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"log/slog"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

// prefixMatch is a Matcher of tests.
type prefixMatch string

func (p prefixMatch) Match(h *http.RequestHead) bool {
	return strings.HasPrefix(string(h.Path), string(p))
}

func parseConfig(t testing.TB, text string) *jwtv3.JwtAuthentication {
	t.Helper()
	cfg := &jwtv3.JwtAuthentication{}
	json, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = protojson.Unmarshal(json, cfg)
	}
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return cfg
}

func compile(t testing.TB, text string, f Fetcher) (*Engine, *Stats, *Remotes, error) {
	t.Helper()
	s, r := &Stats{}, NewRemotes(f, logOf(t))
	t.Cleanup(r.Close)
	e, err := NewEngine(parseConfig(t, text), &Env{Stats: s, Remotes: r,
		Match: func(m *routev3.RouteMatch) (Matcher, error) { return prefixMatch(m.GetPrefix()), nil },
		String: func(m *matcherv3.StringMatcher) (match.String, error) {
			return match.NewString(match.Prefix, m.GetPrefix(), false), nil
		}})
	if err == nil {
		r.Commit()
	}
	return e, s, r, err
}

func build(t testing.TB, text string, f Fetcher) (*Filter, *Stats) {
	t.Helper()
	e, s, _, err := compile(t, text, f)
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return out, s
}

// request makes an exchange with fields, each "name: value".
func request(path string, lines ...string) *http.Exchange {
	ex := &http.Exchange{}
	ex.Req = http.RequestHead{Method: http.MethodGet, RawMethod: []byte("GET"), Scheme: []byte("http"), Authority: []byte("api.test"), Path: []byte(path)}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		ex.Req.Fields.Add([]byte(name), []byte(value))
	}
	return ex
}

func bearer(token string) string { return "authorization: Bearer " + token }

// ask runs the filter and returns the reason of a refusal, "" if the request
// passes.
func ask(f *Filter, ex *http.Exchange) string {
	if f.OnRequest(ex) == filter.Continue {
		return ""
	}
	return ex.LocalReply.Body
}

func get(ex *http.Exchange, name string) string {
	v, _ := ex.Req.Fields.Lookup(http.LookupHeader([]byte(name)), []byte(name))
	return string(v)
}

// logOf writes to a test's output.
func logOf(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }
