// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"testing"
)

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		pattern, host string
		want          bool
	}{
		{"a.com", "a.com", true},
		{"a.com", "b.com", false},
		{"a.com", "*.com", false},
		{"*.com", "a.com", true},
		{"*.com", "a.b.com", true},
		{"*.a.com", "a.com", false},
		{"*", "a.com", true},
		{"*", "*.com", true},
		{"*.com", "*.a.com", true},
		{"*.a.com", "*.com", false},
		{"*.com", "*.com", true},
	} {
		if got := covers(c.pattern, c.host); got != c.want {
			t.Errorf("covers(%q, %q) = %v", c.pattern, c.host, got)
		}
	}
	if !overlap("*.com", "a.com") || !overlap("a.com", "*.com") || overlap("*.org", "a.com") {
		t.Error("overlap is not symmetric, or wrong")
	}
}

func TestIntersect(t *testing.T) {
	for _, c := range []struct{ a, b, want []string }{
		{[]string{"foo.com", "bar.com"}, []string{"*.com"}, []string{"foo.com", "bar.com"}},
		{[]string{"foo.com", "*.net"}, []string{"*.com", "bar.net"}, []string{"foo.com", "bar.net"}},
		{[]string{"foo.com", "*.net"}, []string{"*.bar.net"}, []string{"*.bar.net"}},
		{[]string{"foo.com"}, []string{"bar.com"}, nil},
		{[]string{"*", "*.com"}, []string{"a.com"}, []string{"a.com"}},
		{nil, []string{"a.com"}, nil},
	} {
		if got := intersect(c.a, c.b); !slices.Equal(got, c.want) {
			t.Errorf("intersect(%v, %v) = %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

func TestHostMap(t *testing.T) {
	m := newHostMap[string]()
	for _, p := range []string{"a.example.com", "*.example.com", "*.com", "*", "*.b.example.com"} {
		m.set(p, p)
	}
	for host, want := range map[string]string{
		"a.example.com":   "a.example.com",
		"c.example.com":   "*.example.com",
		"x.b.example.com": "*.b.example.com",
		"example.com":     "*.com",
		"example.org":     "*",
		"*.example.com":   "*.example.com",
		"*.c.example.com": "*.example.com",
	} {
		if got, _ := m.find(host); got != want {
			t.Errorf("find(%q) = %q, want %q", host, got, want)
		}
	}
	empty := newHostMap[int]()
	empty.set("*.example.com", 1)
	if _, ok := empty.find("example.com"); ok {
		t.Error(`"*.example.com" was found for "example.com"`)
	}
}

func TestQualify(t *testing.T) {
	for in, want := range map[string]string{
		"reviews":         "reviews.ns.svc.cluster.local",
		"Reviews":         "reviews.ns.svc.cluster.local",
		"reviews.other":   "reviews.other",
		"api.Example.com": "api.example.com",
		"*":               "*",
		"*.example.com":   "*.example.com",
		"10.0.0.1":        "10.0.0.1",
		"2001:db8::1":     "2001:db8::1",
		"":                "",
	} {
		if got := qualify(in, "ns", "cluster.local"); got != want {
			t.Errorf("qualify(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"mesh":                       "mesh",
		"edge":                       "ns/edge",
		"./edge":                     "ns/edge",
		"infra/edge":                 "infra/edge",
		"edge.infra":                 "infra/edge",
		"edge.infra.svc.cluster.loc": "infra/edge",
	} {
		if got := qualifyGateway(in, "ns"); got != want {
			t.Errorf("qualifyGateway(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"a.com": "a.com:80", "10.0.0.1": "10.0.0.1:80", "2001:db8::1": "[2001:db8::1]:80", "*.a.com": "*.a.com:80",
	} {
		if got := hostPort(in, 80); got != want {
			t.Errorf("hostPort(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestKubernetesProtocol(t *testing.T) {
	for _, c := range []struct {
		port                         uint32
		name, transport, application string
		want                         protocol
	}{
		{80, "http", "TCP", "", protoHTTP},
		{80, "HTTP-web", "TCP", "", protoHTTP},
		{80, "http2-web", "TCP", "", protoHTTP2},
		{80, "grpc", "TCP", "", protoGRPC},
		{80, "grpc-web-api", "TCP", "", protoGRPCWeb},
		{80, "web", "TCP", "", protoUnnamed},
		{80, "", "TCP", "", protoUnnamed},
		{443, "https", "TCP", "", protoHTTPS},
		{80, "tcp-db", "TCP", "http", protoHTTP},
		{80, "http", "TCP", "kubernetes.io/h2c", protoHTTP2},
		{80, "x", "TCP", "kubernetes.io/ws", protoHTTP},
		{80, "x", "TCP", "kubernetes.io/wss", protoHTTPS},
		{3306, "db", "TCP", "", protoTCP},
		{3306, "http", "TCP", "", protoHTTP},
		{53, "http", "UDP", "", protoUDP},
		{6379, "redis", "TCP", "", protoRedis},
	} {
		if got := kubernetesProtocol(c.port, c.name, c.transport, c.application); got != c.want {
			t.Errorf("kubernetesProtocol(%d, %q, %q, %q) = %d, want %d", c.port, c.name, c.transport, c.application, got, c.want)
		}
	}
}

func TestDomainForms(t *testing.T) {
	for host, want := range map[string][]string{
		"reviews.default.svc.cluster.local": {
			"reviews.default.svc.cluster.local", "reviews.default.svc.cluster.local.", "reviews", "reviews.default.svc", "reviews.default",
		},
		"reviews.other.svc.cluster.local": {
			"reviews.other.svc.cluster.local", "reviews.other.svc.cluster.local.", "reviews.other.svc", "reviews.other",
		},
		"api.example.com":     {"api.example.com", "api.example.com."},
		"*.example.com":       {"*.example.com"},
		"x.svc.cluster.local": {"x.svc.cluster.local", "x.svc.cluster.local."},
		"xcluster.local":      {"xcluster.local", "xcluster.local."},
	} {
		if got := domainForms(host, "default", "cluster.local"); !slices.Equal(got, want) {
			t.Errorf("domainForms(%q) =\n%q, want\n%q", host, got, want)
		}
	}
	got := appendDomain(appendDomain(nil, "a.com", 80, true), "2001:db8::1", 81, false)
	if want := []string{"a.com", "a.com:80", "[2001:db8::1]:81"}; !slices.Equal(got, want) {
		t.Errorf("appendDomain made %q, want %q", got, want)
	}
}
