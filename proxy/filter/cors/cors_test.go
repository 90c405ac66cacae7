// SPDX-License-Identifier: Apache-2.0

package cors

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

type exactly string

func (e exactly) Match(b []byte) bool { return string(b) == string(e) }

func policy() *corsv3.CorsPolicy {
	return &corsv3.CorsPolicy{AllowMethods: "GET,POST", AllowHeaders: "x-a", MaxAge: "60", ExposeHeaders: "x-b",
		AllowCredentials: wrapperspb.Bool(true)}
}

// request makes an exchange of a method with name: value lines.
func request(method string, lines ...string) *http.Exchange {
	ex := &http.Exchange{}
	ex.Req.RawMethod, ex.Req.Method = []byte(method), http.LookupMethod([]byte(method))
	for _, l := range lines {
		k, v, _ := strings.Cut(l, ": ")
		ex.Req.Fields.Add([]byte(k), []byte(v))
	}
	return ex
}

func build(t *testing.T, p *corsv3.CorsPolicy) *Filter {
	t.Helper()
	f, err := New(p, []Matcher{exactly("https://a.example")})
	if err != nil || f == nil {
		t.Fatal(f, err)
	}
	return f
}

func lines(fields []http.Field) string {
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(string(f.Name) + ": " + string(f.Value) + "\n")
	}
	return b.String()
}

func TestPreflight(t *testing.T) {
	ask := []string{"Origin: https://a.example", "Access-Control-Request-Method: POST"}
	ex := request("OPTIONS", ask...)
	f := build(t, policy())
	if f.OnRequest(ex) != filter.Reply || ex.LocalReply.Status != 200 {
		t.Fatalf("the reply is %+v", ex.LocalReply)
	}
	want := "access-control-allow-origin: https://a.example\naccess-control-allow-credentials: true\n" +
		"access-control-allow-methods: GET,POST\naccess-control-allow-headers: x-a\naccess-control-max-age: 60\n"
	if got := lines(ex.LocalReply.Headers); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	f.OnResponse(ex)
	if ex.Resp.Fields.Len() != 0 {
		t.Error("a preflight's answer is marked twice")
	}
}

func TestPreflightOfAnotherOrigin(t *testing.T) {
	ask := []string{"Origin: https://b.example", "Access-Control-Request-Method: POST"}
	if f := build(t, policy()); f.OnRequest(request("OPTIONS", ask...)) != filter.Continue {
		t.Error("it isn't forwarded, as it is by default")
	}
	p := policy()
	p.ForwardNotMatchingPreflights = wrapperspb.Bool(false)
	ex := request("OPTIONS", ask...)
	if f := build(t, p); f.OnRequest(ex) != filter.Reply || len(ex.LocalReply.Headers) != 0 {
		t.Errorf("the reply is %+v", ex.LocalReply)
	}
}

func TestNoPreflight(t *testing.T) {
	f := build(t, policy())
	for _, ex := range []*http.Exchange{
		request("GET", "Origin: https://a.example", "Access-Control-Request-Method: POST"),
		request("OPTIONS", "Access-Control-Request-Method: POST"),
		request("OPTIONS", "Origin: https://a.example"),
	} {
		if f.OnRequest(ex) != filter.Continue {
			t.Errorf("%s is answered", ex.Req.RawMethod)
		}
	}
}

func TestResponse(t *testing.T) {
	f := build(t, policy())
	ex := request("GET", "Origin: https://a.example")
	ex.Resp.Fields.Add([]byte("Access-Control-Allow-Origin"), []byte("*"))
	f.OnResponse(ex)
	want := "Access-Control-Allow-Origin: https://a.example\naccess-control-allow-credentials: true\naccess-control-expose-headers: x-b\n"
	if got := lines(ex.Resp.Fields.All()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	other := request("GET", "Origin: https://b.example")
	f.OnResponse(other)
	if other.Resp.Fields.Len() != 0 {
		t.Error("a response is marked for an origin that isn't allowed")
	}
}

// TestAnyOrigin holds that every origin may read what any origin may, and is
// told its own name, since credentials forbid a "*".
func TestAnyOrigin(t *testing.T) {
	f, err := New(policy(), []Matcher{Any{}})
	if err != nil {
		t.Fatal(err)
	}
	ex := request("GET", "Origin: https://anybody.example")
	f.OnResponse(ex)
	if v, _ := ex.Resp.Fields.Lookup(http.HeaderOther, []byte(nameOrigin)); string(v) != "https://anybody.example" {
		t.Errorf("the response allows %q", v)
	}
}

func TestConfig(t *testing.T) {
	off := policy()
	off.FilterEnabled = &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{}}
	if f, err := New(off, nil); f != nil || err != nil {
		t.Errorf("a policy that is off is built (%v)", err)
	}
	bad := policy()
	bad.AllowPrivateNetworkAccess = wrapperspb.Bool(true)
	if _, err := New(bad, nil); err == nil || !strings.Contains(err.Error(), "allow_private_network_access: is not supported") {
		t.Errorf("the error is %v", err)
	}
}
