// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

func exact(op Op, v string) Rule { return Rule{Op: op, Text: match.NewString(match.Exact, v, false)} }

func prefix(op Op, v string) Rule { return Rule{Op: op, Text: match.NewString(match.Prefix, v, false)} }

var anybody = []Rule{{Op: Any}}

// exchange is a request of a peer with the given URI names.
func exchange(path string, uris ...string) *http.Exchange {
	ex := &http.Exchange{Conn: &http.ConnInfo{Local: "127.0.0.1:80", Remote: "127.0.0.2:1234"}}
	ex.Req.Path = []byte(path)
	ex.Req.RawMethod = []byte("GET")
	if len(uris) > 0 {
		ex.Conn.TLS = &http.TLSInfo{Peer: &http.Certificate{URIs: uris, DNS: []string{"a.example"}, Subject: "CN=a"}, PeerVerified: true}
	}
	return ex
}

// TestPrincipals holds Envoy's order of names, and that only a verified peer has
// any.
func TestPrincipals(t *testing.T) {
	verified := &http.TLSInfo{PeerVerified: true, Peer: &http.Certificate{URIs: []string{"spiffe://x", "spiffe://y"}, DNS: []string{"d"}, Subject: "CN=s"}}
	unverified := &http.TLSInfo{Peer: verified.Peer}
	for _, c := range []struct {
		tls  *http.TLSInfo
		rule Rule
		want bool
	}{
		{nil, Rule{Op: Authenticated}, false},
		{nil, prefix(Principal, ""), false},
		{&http.TLSInfo{}, Rule{Op: Authenticated}, false},
		{&http.TLSInfo{}, prefix(Principal, ""), true}, // the empty name, as with Envoy
		{&http.TLSInfo{}, prefix(Principal, "s"), false},
		{unverified, Rule{Op: Authenticated}, false},
		{unverified, exact(Principal, "spiffe://x"), false},
		{verified, Rule{Op: Authenticated}, true},
		{verified, exact(Principal, "spiffe://x"), true},
		{verified, exact(Principal, "spiffe://y"), true},
		{verified, exact(Principal, "d"), true},
		{verified, exact(Principal, "CN=s"), true},
		{verified, exact(Principal, "spiffe://z"), false},
		{verified, Rule{Op: Not, Rules: []Rule{exact(Principal, "spiffe://x")}}, false},
	} {
		in := input{conn: &http.ConnInfo{TLS: c.tls}}
		if got := c.rule.matches(&in); got != c.want {
			t.Errorf("%s of %+v: %t", c.rule.String(), c.tls, got)
		}
	}
}

// TestForgottenRuleMatchesNothing: zero values let nobody in.
func TestForgottenRuleMatchesNothing(t *testing.T) {
	r := NewRules(Allow, []Policy{{Name: "p", Permissions: []Rule{{}}, Principals: anybody}})
	in := input{conn: &http.ConnInfo{}}
	if by, allowed := r.decide(&in); by != nil || allowed {
		t.Errorf("a rule without an operation matches")
	}
	if _, allowed := (&Rules{action: 99}).decide(&in); allowed {
		t.Errorf("an unknown action allows")
	}
}

func TestFilterTells(t *testing.T) {
	policies := []Policy{{Name: "ns[a]-policy[b c]-rule[0]", Permissions: []Rule{exact(Path, "/x")}, Principals: anybody}}
	v := [2]Verdicts{}
	f := New(Check{Rules: NewRules(Allow, policies), Verdicts: &v[0], Prefix: "r_"}, Check{Rules: NewRules(Deny, policies), Verdicts: &v[1], Prefix: "s_"})
	ex := exchange("/x?q")
	if f.OnRequest(ex) != filter.Continue {
		t.Fatal("/x is denied")
	}
	for key, want := range map[string]any{"r_enforced_engine_result": "allowed", "r_enforced_effective_policy_id": "ns[a]-policy[b c]-rule[0]",
		"s_shadow_engine_result": "denied", "s_shadow_effective_policy_id": "ns[a]-policy[b c]-rule[0]"} {
		if got, _ := ex.Metadata.Get("envoy.filters.http.rbac", key); got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	ex = exchange("/y")
	if f.OnRequest(ex) != filter.Reply || ex.LocalReply.Status != 403 || ex.LocalReply.Body != "RBAC: access denied" ||
		ex.Details != "rbac_access_denied_matched_policy[none]" || ex.LocalReply.Err.Flag != 0 {
		t.Errorf("the reply is %+v, details %q", ex.LocalReply, ex.Details)
	}
	if got, _ := ex.Metadata.Get("envoy.filters.http.rbac", "r_enforced_reason"); got != "none of 1 policies matched" {
		t.Errorf("the reason is %v", got)
	}
	if v[0].Allowed.Value() != 1 || v[0].Denied.Value() != 1 || v[1].Allowed.Value() != 1 || v[1].Denied.Value() != 1 {
		t.Errorf("the counters are %d %d, shadow %d %d", v[0].Allowed.Value(), v[0].Denied.Value(), v[1].Allowed.Value(), v[1].Denied.Value())
	}
	f = New(Check{Rules: NewRules(Deny, policies)}, Check{})
	ex = exchange("/x")
	if f.OnRequest(ex) != filter.Reply || ex.Details != "rbac_access_denied_matched_policy[ns[a]-policy[b_c]-rule[0]]" {
		t.Errorf("details are %q", ex.Details)
	}
	if New(Check{}, Check{}) != nil {
		t.Error("a filter without rules is built")
	}
}

func TestNetwork(t *testing.T) {
	n := NewNetwork(Check{Rules: NewRules(Deny, []Policy{{Name: "p 1", Permissions: []Rule{{Op: DestinationPort, From: 80, To: 81}}, Principals: []Rule{
		{Op: SourceIP, Range: netip.MustParsePrefix("127.0.0.0/8")}}}})}, Check{})
	a := filter.Admission{Conn: &http.ConnInfo{Local: "127.0.0.1:80", Remote: "127.0.0.2:1"}}
	if n.Admit(&a) || a.Details != "rbac_access_denied_matched_policy[p_1]" {
		t.Errorf("details are %q", a.Details)
	}
	a = filter.Admission{Conn: &http.ConnInfo{Local: "127.0.0.1:80", Remote: "127.0.0.2:1", OriginalDst: "10.0.0.1:81"}}
	if !n.Admit(&a) {
		t.Error("the original destination doesn't count")
	}
}

// manyPolicies are as istiod makes them: some by path, some by principal, some
// by prefix.
func manyPolicies(n int) []Policy {
	var out []Policy
	for i := range n {
		p := Policy{Name: fmt.Sprintf("ns[n]-policy[p%04d]-rule[0]", i), Permissions: anybody, Principals: anybody}
		switch i % 3 {
		case 0:
			p.Permissions = []Rule{{Op: And, Rules: []Rule{{Op: Or, Rules: []Rule{exact(Path, fmt.Sprint("/p", i)), exact(Path, fmt.Sprint("/q", i/2))}}}}}
		case 1:
			p.Principals = []Rule{{Op: And, Rules: []Rule{{Op: Or, Rules: []Rule{exact(Principal, fmt.Sprint("spiffe://td/", i))}}}}}
		case 2:
			p.Permissions = []Rule{{Op: And, Rules: []Rule{prefix(Path, fmt.Sprint("/prefix", i, "/")), {Op: Not, Rules: []Rule{exact(Path, "/prefix")}}}}}
		}
		out = append(out, p)
	}
	return out
}

// TestIndexChangesNothing compares with going through all policies.
func TestIndexChangesNothing(t *testing.T) {
	r := NewRules(Allow, manyPolicies(300))
	if r.index == nil {
		t.Fatal("there is no index")
	}
	found := 0
	for i := range 400 {
		for _, path := range []string{fmt.Sprint("/p", i), fmt.Sprint("/q", i), fmt.Sprint("/prefix", i, "/x"), "/"} {
			for _, names := range [][]string{nil, {fmt.Sprint("spiffe://td/", i)}, {"spiffe://td/none", fmt.Sprint("spiffe://td/", i/2)},
				strings.Fields("spiffe://td/1 spiffe://td/4 spiffe://td/7 spiffe://td/10 spiffe://td/13 spiffe://td/16 spiffe://td/19 spiffe://td/22 spiffe://td/25")} {
				ex := exchange(path, names...)
				in := input{conn: ex.Conn, head: &ex.Req}
				want, got := first(r.policies, &in), r.find(&in)
				if want != got {
					t.Fatalf("%s of %v: %v, want %v", path, names, got, want)
				}
				if got != nil {
					found++
				}
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d matched", found)
	}
}

func TestShapes(t *testing.T) {
	for _, bad := range []string{"", "a", "/a//b", "/{a", "/{}", "/{*}", "/{1a}", "/{a}/{a}", "/**/*", "/**/**", "/a*", "/a/***", "/a?b", "/a b", "/é",
		"/{a=/b}", "/{a=}", "/{abcdefghijklmnopq}", "/{a}/{b}/{c}/{d}/{e}/{f}", "/}", "/" + strings.Repeat("a", 256)} {
		if _, err := NewShape(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	s, err := NewShape("/a/*/b")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/a/x*y/b": true, "/a/x/b": true, "/a//b": false, "/a/x/y/b": false, "/a/x/b/": false, "/a/|/b": false} {
		if s.Match([]byte(path)) != want {
			t.Errorf("%s of %q: %t", s, path, !want)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	f := New(Check{Rules: NewRules(Allow, append(manyPolicies(100), Policy{Name: "z", Permissions: []Rule{exact(Path, "/z")}, Principals: []Rule{
		{Op: RemoteIP, Range: netip.MustParsePrefix("2001:db8::/32")}, {Op: SourceIP, Range: netip.MustParsePrefix("127.0.0.0/8")}}}))},
		Check{Rules: NewRules(Log, manyPolicies(3))})
	ex := exchange("/z", "spiffe://td/none")
	client := []byte("2001:db8:1:2:3:4:5:6")
	info, path := ex.Conn, ex.Req.Path
	if n := testing.AllocsPerRun(100, func() {
		ex.Reset()
		ex.Conn, ex.Req.Path, ex.ClientAddress = info, path, client
		if f.OnRequest(ex) != filter.Continue {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("a decision allocates %v times", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000} {
		r := NewRules(Allow, manyPolicies(n))
		for _, indexed := range []bool{false, true} {
			if indexed && r.index == nil {
				continue
			}
			ex := exchange("/api/v1/things", "spiffe://td/none")
			b.Run(fmt.Sprintf("policies=%d/indexed=%t", n, indexed), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					in := input{conn: ex.Conn, head: &ex.Req}
					if indexed {
						r.find(&in)
					} else {
						first(r.policies, &in)
					}
				}
			})
		}
	}
}
