// SPDX-License-Identifier: Apache-2.0

package router

import (
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pillion/proxy/http"
	"pillion/proxy/proxytest"
)

func formatExchange() *http.Exchange {
	ex := exchange("GET h.com:81 /p?q=1%20&b", "x-a: hello", "X-A: second", "x-empty:")
	ex.Start = http.Now()
	ex.RouteName, ex.ClusterName = "rt", "outbound|80||a"
	ex.Upstream = &http.HostFacts{Address: "[::1]:8080"}
	ex.UpstreamLocal, ex.UpstreamProtocol = "127.0.0.6:4000", http.HTTP11
	ex.Conn.SNI = "s.ni"
	ex.Conn.TLS = &http.TLSInfo{
		Version: "TLSv1.3",
		Peer:    &http.Certificate{URIs: []string{"spiffe://a"}, Subject: "CN=a\nb", DNS: []string{"x", "y"}, NotAfter: time.Unix(0, 0)},
		Own:     &http.Certificate{URIs: []string{"spiffe://b"}, Subject: "O=own"},
	}
	ex.Metadata.Set("rbac", map[string]any{"result": "a\nb", "n": 0.5, "all": []any{"x<", nil}})
	ex.Resp.Status = 503
	ex.Resp.Fields.Add([]byte("X-R"), []byte("answer"))
	ex.Flags, ex.Details = http.FlagFaultInjected, "via_upstream"
	return ex
}

// TestFormat holds what Envoy 1.40 puts into header values. The second column
// is the value for a response, "=" if it is that for a request.
func TestFormat(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ format, request, response string }{
		{"", "", "="}, {"plain", "plain", "="}, {"100%%", "100%", "="}, {"%%%%", "%%", "="}, {"x\ty", "x\ty", "="},
		{"%%REQ(x-a)%%", "%REQ(x-a)%", "="}, {"%%%REQ(x-a)%", "%hello", "="}, {"%REQ(x-a)%%%", "hello%", "="},
		{"[%REQ(x-a)%%REQ(x-a)%]", "[hellohello]", "="},
		{"%REQ(X-A)%", "hello", "="}, {"%REQ(nope?x-a)%", "hello", "="}, {"%REQ(x-empty?x-a)%", "hello", "="}, {"%REQ(nope?)%", "", "="},
		{"%REQ(x-a):2%", "he", "="}, {"%REQ(nope):2%", "", "="}, {"%REQ(x-a):99%", "hello", "="}, {"a%REQ(nope)%b", "ab", "="},
		{"%REQ(:PATH)%", "/p?q=1%20&b", "="}, {"%REQ(:method)%", "GET", "="}, {"%REQ(:authority)%", "h.com:81", "="},
		{"%REQ(host)%", "h.com:81", "="}, {"%REQ(:scheme)%", "http", "="},
		{"%RESP(x-r)%", "", "answer"}, {"%RESP(nope?X-R)%", "", "answer"}, {"%RESP(:path)%", "", "="},
		{"%QUERY_PARAM(q)%", "1%20", "="}, {"%QUERY_PARAM(zz)%", "", "="}, {"%PATH%", "/p?q=1%20&b", "="}, {"%PATH(NQ)%", "/p", "="},
		{"%PROTOCOL%", "HTTP/1.1", "="}, {"%PROTOCOL()%", "HTTP/1.1", "="},
		{"%DOWNSTREAM_REMOTE_ADDRESS%", "10.0.0.1:5555", "="}, {"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1", "="},
		{"%DOWNSTREAM_REMOTE_PORT%", "5555", "="}, {"%DOWNSTREAM_LOCAL_ADDRESS%", "10.0.0.2:9080", "="},
		{"%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%|%DOWNSTREAM_LOCAL_PORT%", "10.0.0.2|9080", "="},
		{"%UPSTREAM_HOST%", "[::1]:8080", "="}, {"%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%UPSTREAM_REMOTE_PORT%", "::1|8080", "="},
		{"%UPSTREAM_LOCAL_ADDRESS%", "127.0.0.6:4000", "="}, {"%UPSTREAM_CLUSTER%", "outbound|80||a", "="}, {"%UPSTREAM_PROTOCOL%", "HTTP/1.1", "="},
		{"%ROUTE_NAME%", "rt", "="}, {"%REQUESTED_SERVER_NAME%", "s.ni", "="}, {"%DOWNSTREAM_PEER_URI_SAN%", "spiffe://a", "="},
		{"%DOWNSTREAM_LOCAL_URI_SAN%", "spiffe://b", "="}, {"<%HOSTNAME%>", "<" + host + ">", "="},
		{"%DOWNSTREAM_TLS_VERSION%|%DOWNSTREAM_TLS_CIPHER%|%DOWNSTREAM_PEER_SUBJECT%|%DOWNSTREAM_PEER_DNS_SAN%", "TLSv1.3||CN=a?b|x,y", "="},
		{"%DOWNSTREAM_LOCAL_SUBJECT%|%DOWNSTREAM_PEER_CERT_V_END%", "O=own|1970-01-01T00:00:00.000Z", "="},
		{"%DYNAMIC_METADATA(rbac:result)%|%DYNAMIC_METADATA(rbac:n)%|%DYNAMIC_METADATA(rbac:all):5%", `a?b|0.5|["x<"`, "="},
		{"<%DYNAMIC_METADATA(rbac:none)%%DYNAMIC_METADATA(none)%>", "<>", "="},
		{"%RESPONSE_CODE%", "503", "="}, {"%RESPONSE_FLAGS%", "FI", "="}, {"%RESPONSE_CODE_DETAILS%", "via_upstream", "="},
	} {
		f, err := ParseFormat(c.format)
		if err != nil {
			t.Errorf("%q: %v", c.format, err)
			continue
		}
		if c.response == "=" {
			c.response = c.request
		}
		ex := formatExchange()
		if got := string(f.Append([]byte(">"), ex, false)); got != ">"+c.request {
			t.Errorf("%q in a request = %q, want %q", c.format, got[1:], c.request)
		}
		if got := string(f.Append(nil, ex, true)); got != c.response {
			t.Errorf("%q in a response = %q, want %q", c.format, got, c.response)
		}
		if lit, ok := f.Literal(); ok != (!strings.Contains(strings.ReplaceAll(c.format, "%%", ""), "%") || strings.Contains(c.format, "HOSTNAME") || c.format == "%%REQ(x-a)%%") ||
			ok && string(lit) != c.request {
			t.Errorf("%q: literal %q, %t", c.format, lit, ok)
		}
	}
}

func TestFormatOfNothing(t *testing.T) {
	f, err := ParseFormat("%UPSTREAM_HOST%%UPSTREAM_PROTOCOL%%DOWNSTREAM_REMOTE_ADDRESS%%REQ(x)%")
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Append(nil, &http.Exchange{}, true); len(got) != 0 {
		t.Errorf("an empty exchange gives %q", got)
	}
}

func TestStartTime(t *testing.T) {
	ex := formatExchange()
	wall := http.WallTime(ex.Start).UTC()
	for format, want := range map[string]string{"%START_TIME%": wall.Format("2006-01-02T15:04:05.000Z"), "%START_TIME(%s)%": ""} {
		f, err := ParseFormat(format)
		if err != nil {
			t.Fatal(err)
		}
		got := string(f.Append(nil, ex, false))
		if want == "" && len(got) != 10 || want != "" && got != want {
			t.Errorf("%s = %q, want %q", format, got, want)
		}
	}
}

func TestFormatRefused(t *testing.T) {
	for format, want := range map[string]string{
		"100%": "begins no operator", "%": "begins no operator", "a%b": "at offset 1: a \"%\" begins no operator",
		"%REQ(a)% %": "at offset 9", "%REQ(x-a)": "is not closed", "%REQ(x-a%": "is not closed", "%protocol%": "begins no operator",
		"%REQ()%": "names no header", "%REQ%": "names no header", "%REQ( x-a)%": "names no header", "%REQ(a?b c)%": "names no header",
		"%REQ(x%y\n)%": "names no header",
		"%NOPE%":       "the operator %NOPE% is not supported in header values", "%DYNAMIC_METADATA%": "must be FILTER or FILTER:KEY", "%DYNAMIC_METADATA(a:)%": "%DYNAMIC_METADATA(a:)%: must be FILTER",
		"%PROTOCOL(x)%": "takes no argument", "%PROTOCOL:4%": "takes no length", "%HOSTNAME:3%": "takes no length",
		"%REQ(x-a):%": "has to be a number above 0", "%REQ(x-a):0%": "has to be a number above 0", "%REQ(x-a):x%": "is not closed",
		"%REQ(x-a):99999999999999999999%": "has to be a number", "%START_TIME(%Y)%": "not supported", "%PATH(XX)%": "not supported",
		"%QUERY_PARAM()%": "needs a parameter's name", "%QUERY_PARAM%": "needs a parameter's name", "%%%": "begins no operator",
	} {
		if _, err := ParseFormat(format); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", format, err, want)
		}
	}
}

func TestFormatAllocatesNothing(t *testing.T) {
	ex := formatExchange()
	f, err := ParseFormat("a %REQ(x-a)% %PROTOCOL% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT% %START_TIME% %RESPONSE_FLAGS%")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 256)
	proxytest.NoAllocs(t, "a format", func() { f.Append(buf, ex, true) })
}

// FuzzParseFormat holds that any text compiles or is refused with an offset
// inside of it, that literal text comes out as it went in, and that the value
// fits into a header whenever the text did.
func FuzzParseFormat(f *testing.F) {
	for _, s := range []string{"", "%", "%%", "%REQ(x-a)%", "%REQ(a?b):3%", "%START_TIME(%s)%", "%REQ(a)b)%", "%REQ(x):%", "%PATH(NQ)%%", "%%%RESP(:status)%é"} {
		f.Add(s)
	}
	ex := formatExchange()
	f.Fuzz(func(t *testing.T, s string) {
		format, err := ParseFormat(s)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "at offset ") {
				t.Errorf("%q: %v names no offset", s, err)
			}
			return
		}
		out := string(format.Append(nil, ex, true))
		if !strings.Contains(s, "%") && out != s {
			t.Errorf("%q becomes %q", s, out)
		}
		if strings.ReplaceAll(s, "%%", "") == s && strings.Count(s, "%")%2 == 1 && !strings.Contains(s, "(") {
			t.Errorf("%q has a percent sign too many", s)
		}
		if ValidHeaderValue(s) && !ValidHeaderValue(out) {
			t.Errorf("%q makes the value %q", s, out)
		}
		if utf8.ValidString(s) && strings.HasPrefix(s, "é") && !strings.HasPrefix(out, "é") {
			t.Errorf("%q loses its start in %q", s, out)
		}
	})
}

// TestFormatRedirected: the address of a redirected connection is where it was going,
// not where it was taken to.
func TestFormatRedirected(t *testing.T) {
	ex := formatExchange()
	ex.Conn.OriginalDst = "10.0.0.9:80"
	f, err := ParseFormat("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.Append(nil, ex, false)); got != "10.0.0.9:80 10.0.0.9 80" {
		t.Errorf("%q", got)
	}
}
