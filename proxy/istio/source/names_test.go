// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	label63 := strings.Repeat("x", 63)
	for _, c := range []struct {
		name      string
		check     func(string) string
		good, bad []string
	}{
		{"label", badLabel, []string{"a", "A-1", label63, "0"}, []string{"", "-a", "a-", "a.b", "a_b", "é", label63 + "x"}},
		{"subdomain", badSubdomain, []string{"a.b-c.0", "a"}, []string{"", "A", "a..b", ".a", "a/b", "a-.b", strings.Repeat("a.", 127)}},
		{"FQDN", badFQDN, []string{"a", "a.b.", "Example.COM", "1.a"}, []string{"", ".", "a..b", "10.0.0.1", "a b", "*.a", strings.Repeat("a.", 128)}},
		{"host", badHost, []string{"*", "*.a", "*-a.b", "*a.b", "a.b"}, []string{"", "*-", "*.", "a.*", "*.*.a", "**", "*.1", "*" + strings.Repeat(".a", 128)}},
		{"subnet", badSubnet, []string{"10.0.0.1", "10.0.0.0/8", "::/0"}, []string{"", "10.0.0.0/33", "x", "10.0.0.1/8/8"}},
		{"socket", badUnixPath, []string{"/a", "@a"}, []string{"", "a", "/a/"}},
		{"label key", badLabelKey, []string{"a", "a.b/c_d", "A"}, []string{"", "a/", "/a", "a/b/c", "-a", strings.Repeat("x", 64)}},
		{"label value", badLabelValue, []string{"", "a", "a_b.c-d"}, []string{"a b", "-a", "a/", strings.Repeat("x", 64)}},
		{"header", badHeaderName, []string{"x", "X-Y", "a.b!#$%&'*+-^_`|~"}, []string{"", "a b", "a:b", "é", "a\x00"}},
		{
			"header value", badHeaderValue,
			[]string{"", "x", "100%%", "%A%", "%A%%B%", "%REQ(x?y):10%", `%X(["a\"%)","b"])%`, "a\tb", "%A(%B%)%"},
			[]string{"%", "50% off", "%A", "%A(%", "%()", "a\nb", "\x7f", `%A("x)%`, "%%%"},
		},
	} {
		for _, s := range c.good {
			if reason := c.check(s); reason != "" {
				t.Errorf("%s: %q %s", c.name, s, reason)
			}
		}
		for _, s := range c.bad {
			if c.check(s) == "" {
				t.Errorf("%s: %q passes", c.name, s)
			}
		}
	}
}

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		a, b            string
		overlap, within bool
	}{
		{"a.b", "a.b", true, true},
		{"a.b", "a.c", false, false},
		{"*.b", "a.b", true, false},
		{"a.b", "*.b", true, true},
		{"*.a.b", "*.b", true, true},
		{"*.b", "*.a.b", true, false},
		{"*.b", "*.c", false, false},
		{"b", "*.b", false, false},
		{"*", "*.b", true, false},
	} {
		if got := hostsOverlap(c.a, c.b); got != c.overlap {
			t.Errorf("%s and %s overlap: %v", c.a, c.b, got)
		}
		if got := hostWithin(c.a, c.b); got != c.within {
			t.Errorf("%s is within %s: %v", c.a, c.b, got)
		}
	}
}
