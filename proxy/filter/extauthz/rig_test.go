// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

var (
	_ filter.BodyReader     = (*Filter)(nil)
	_ filter.ResponseFilter = (*Filter)(nil)
)

// server stands for an authorization server: it answers every call in the same
// way, and keeps the calls.
type server struct {
	answer *filter.ClientAnswer
	err    *http.Error
	wait   bool // until the call is cancelled

	cluster string
	calls   []*filter.ClientCall
}

func (s *server) Do(c *filter.ClientCall) (*filter.ClientAnswer, *http.Error) {
	s.calls = append(s.calls, c)
	if s.wait {
		late := time.NewTimer(c.Timeout)
		defer late.Stop()
		select {
		case <-c.Cancel:
			return nil, &http.Error{Kind: http.KindClientGone}
		case <-late.C:
			return nil, &http.Error{Kind: http.KindTimeout}
		}
	}
	return s.answer, s.err
}

// fixed is a filter.Value without operators.
type fixed string

func (f fixed) Append(dst []byte, _ *http.Exchange) []byte { return append(dst, f...) }

// env is what filters of s are built with. Their counters are returned.
func env(s *server) (*Env, *Stats) {
	counters := NewStats("")
	return &Env{
		Client: func(cluster string) filter.Client { s.cluster = cluster; return s },
		GRPC: func(g *corev3.GrpcService, unsaid time.Duration) (*filter.GRPCService, error) {
			if s.cluster = g.GetEnvoyGrpc().GetClusterName(); s.cluster == "" {
				return nil, errors.New("envoy_grpc.cluster_name: is needed")
			}
			out := &filter.GRPCService{Client: s, Authority: s.cluster, Timeout: unsaid}
			if g.GetTimeout() != nil {
				out.Timeout = g.GetTimeout().AsDuration()
			}
			return out, nil
		},
		String: func(m *matcherv3.StringMatcher) (match.String, error) {
			if m.GetExact() != "" {
				return match.NewString(match.Exact, m.GetExact(), m.GetIgnoreCase()), nil
			}
			if m.GetPrefix() != "" {
				return match.NewString(match.Prefix, m.GetPrefix(), m.GetIgnoreCase()), nil
			}
			return match.String{}, fmt.Errorf("matcher: is empty")
		},
		Value: func(text string) (filter.Value, error) {
			if strings.Contains(text, "%") {
				return nil, fmt.Errorf("%q is no text", text)
			}
			return fixed(text), nil
		},
		Labels: func(string) map[string]string { return map[string]string{"app": "a"} },
		Stats:  func(string) *Stats { return counters },
	}, counters
}

func grpcService5s() *corev3.GrpcService {
	return &corev3.GrpcService{Timeout: durationpb.New(5 * time.Second),
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "az"}}}
}

func overGRPC() *extauthzv3.ExtAuthz {
	return &extauthzv3.ExtAuthz{Services: &extauthzv3.ExtAuthz_GrpcService{GrpcService: grpcService5s()}}
}

func overHTTP() *extauthzv3.ExtAuthz {
	return &extauthzv3.ExtAuthz{Services: &extauthzv3.ExtAuthz_HttpService{HttpService: httpService5s()}}
}

func httpService5s() *extauthzv3.HttpService {
	return &extauthzv3.HttpService{ServerUri: &corev3.HttpUri{Uri: "http://az", Timeout: durationpb.New(5 * time.Second),
		HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: "az"}}}
}

func build(t testing.TB, cfg *extauthzv3.ExtAuthz, s *server) (*Filter, *Stats) {
	t.Helper()
	e, counters := env(s)
	f, err := New(cfg, nil, e)
	if err != nil {
		t.Fatal(err)
	}
	return f, counters
}

// exchange is a GET of /p?a=1 at a.b with name: value lines.
func exchange(lines ...string) *http.Exchange {
	ex := &http.Exchange{ClusterName: "up", Conn: &http.ConnInfo{Local: "10.0.0.1:80", Remote: "10.0.0.2:1234"}}
	h := &ex.Req
	h.Method, h.RawMethod = http.MethodGet, []byte("GET")
	h.Scheme, h.Authority, h.Path, h.Protocol = []byte("http"), []byte("a.b"), []byte("/p?a=1"), http.HTTP11
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.Fields.Add([]byte(name), []byte(value))
	}
	return ex
}

// text is a list of fields.
func text(f []http.Field) string {
	var b strings.Builder
	for _, fl := range f {
		fmt.Fprintf(&b, "%s: %s|", fl.Name, fl.Value)
	}
	return b.String()
}
