// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"net/netip"
	"strings"
	"testing"
)

func prefix(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }

// TestMatcher holds Envoy's order of the parts and of the values within each,
// and that a part that was decided isn't taken back.
func TestMatcher(t *testing.T) {
	m, err := NewMatcher([]Match{
		0: {DestinationPort: 443},
		1: {DestinationPrefixes: prefix("10.0.0.0/8")},
		2: {DestinationPrefixes: prefix("10.1.0.0/16")},
		3: {TransportProtocol: "tls", ServerNames: []string{"a.example.com"}},
		4: {TransportProtocol: "tls", ServerNames: []string{"*.example.com"}},
		5: {TransportProtocol: "tls", ServerNames: []string{"*.b.example.com"}},
		6: {TransportProtocol: "raw_buffer", ApplicationProtocols: []string{"http/1.1", "h2c"}},
		7: {TransportProtocol: "raw_buffer", SourcePrefixes: prefix("127.0.0.9/32")},
		8: {TransportProtocol: "raw_buffer", SourcePorts: []uint16{999}},
	})
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	tls := func(name string) Facts {
		return Facts{Destination: at("127.0.0.1:1"), Source: at("127.0.0.2:2"), TransportProtocol: "tls", ServerName: name}
	}
	raw := func(source string, alpn ...string) Facts {
		return Facts{Destination: at("127.0.0.1:1"), Source: at(source), TransportProtocol: "raw_buffer", ApplicationProtocols: alpn}
	}
	for _, tc := range []struct {
		what  string
		facts Facts
		want  int
	}{
		{"a port goes before an address", Facts{Destination: at("10.1.0.1:443"), Source: at("127.0.0.1:1")}, 0},
		{"an address", Facts{Destination: at("10.2.0.1:1"), Source: at("127.0.0.1:1")}, 1},
		{"the longer prefix", Facts{Destination: at("10.1.0.1:1"), Source: at("127.0.0.1:1")}, 2},
		{"an IPv4 address in IPv6 form", Facts{Destination: at("[::ffff:10.1.0.1]:1"), Source: at("127.0.0.1:1")}, 2},
		{"an exact name", tls("a.example.com"), 3},
		{"a wildcard", tls("c.example.com"), 4},
		{"a wildcard, two labels deep", tls("d.c.example.com"), 4},
		{"the longer wildcard", tls("a.b.example.com"), 5},
		{"a wildcard is no name of its own", tls("example.com"), None},
		{"no name", tls(""), None},
		{"a protocol", raw("127.0.0.2:2", "h2c"), 6},
		{"a source address", raw("127.0.0.9:2"), 7},
		{"a source port", raw("127.0.0.2:999"), 8},
		{"nothing that is asked for", raw("127.0.0.2:2"), None},
		{"a protocol that was decided isn't taken back", raw("127.0.0.9:999", "http/1.1"), 6},
	} {
		if got := m.Find(&tc.facts); got != tc.want {
			t.Errorf("%s: chain %d, want %d", tc.what, got, tc.want)
		}
	}
}

func TestMatcherRefuses(t *testing.T) {
	for _, tc := range []struct {
		what   string
		chains []Match
		want   string
	}{
		{"two chains for all", []Match{{}, {}}, "filter_chains[1]"},
		{"two that share a value", []Match{{ServerNames: []string{"a", "b"}}, {ServerNames: []string{"b", "c"}}}, "filter_chains[1]"},
		{"a wildcard in the middle", []Match{{ServerNames: []string{"a.*.c"}}}, "a.*.c"},
		{"half a label", []Match{{ServerNames: []string{"*a.c"}}}, "*a.c"},
	} {
		if _, err := NewMatcher(tc.chains); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
	if _, err := NewMatcher([]Match{{ServerNames: []string{"a", "A"}}}); err != nil {
		t.Errorf("one name twice in one chain: %v", err)
	}
}

// FuzzFindName: the chain is that of the longest name that fits, whatever a
// client sends.
func FuzzFindName(f *testing.F) {
	m, err := NewMatcher([]Match{{ServerNames: []string{"a.b.c"}}, {ServerNames: []string{"*.b.c"}}, {ServerNames: []string{"*.c"}}, {ServerNames: []string{"b.c"}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"a.b.c", "x.a.b.c", ".c", "..c", "", ".", "b.c", "c", ".b.c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		want := None
		switch {
		case host == "a.b.c":
			want = 0
		case host == "b.c":
			want = 3
		case len(host) > len(".b.c") && strings.HasSuffix(host, ".b.c"):
			want = 1
		case len(host) > len(".c") && strings.HasSuffix(host, ".c"):
			want = 2
		}
		if got := m.Find(&Facts{ServerName: host}); got != want {
			t.Fatalf("%q: chain %d, want %d", host, got, want)
		}
	})
}
