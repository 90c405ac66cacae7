// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"fmt"
	"strings"
	"testing"

	"pillion/proxy/http"
)

// xfcc runs one request through forwardClientCert and returns the field's lines.
func xfcc(cfg *Config, tls *http.TLSInfo, in ...string) []string {
	info := &http.ConnInfo{TLS: tls}
	st := &stream{c: &conn{info: info}, cfg: cfg}
	st.ex.Conn = info
	for _, v := range in {
		st.ex.Req.Fields.AddID(http.HeaderXForwardedClientCert, []byte(v))
	}
	st.forwardClientCert()
	var out []string
	for _, f := range st.ex.Req.Fields.All() {
		out = append(out, string(f.Value))
	}
	return out
}

func TestForwardClientCert(t *testing.T) {
	own := &http.Certificate{URIs: []string{"spiffe://td/ns/a/sa/server"}}
	peer := &http.Certificate{
		Digest: "ab12", Subject: "CN=x,O=Acme\\, Inc", URIs: []string{"spiffe://td/one", "spiffe://td/two"}, DNS: []string{"a.example.com", "b.example.com"},
	}
	mutual := &http.TLSInfo{Own: own, Peer: peer, PeerVerified: true}
	oneWay := &http.TLSInfo{Own: own}
	istio := ClientCertDetails{Subject: true, DNS: true, URI: true}
	const element = `By=spiffe://td/ns/a/sa/server;Hash=ab12;Subject="CN=x,O=Acme\, Inc";URI=spiffe://td/one;URI=spiffe://td/two;DNS=a.example.com;DNS=b.example.com`
	for _, c := range []struct {
		name    string
		mode    ForwardClientCert
		details ClientCertDetails
		tls     *http.TLSInfo
		in      []string
		want    []string
	}{
		{"sanitize", Sanitize, istio, mutual, []string{"By=s"}, nil},
		{"forward only", ForwardOnly, istio, mutual, []string{"By=s", "By=t"}, []string{"By=s", "By=t"}},
		{"forward only, nothing came", ForwardOnly, istio, mutual, nil, nil},
		{"forward only, one-way TLS", ForwardOnly, istio, oneWay, []string{"By=s"}, nil},
		{"forward only, plain", ForwardOnly, istio, nil, []string{"By=s"}, nil},
		{"append", AppendForward, istio, mutual, []string{"By=s"}, []string{"By=s," + element}},
		{"append to several", AppendForward, istio, mutual, []string{"By=s", "By=t"}, []string{"By=s,By=t," + element}},
		{"append to none", AppendForward, istio, mutual, nil, []string{element}},
		{"append, one-way TLS", AppendForward, istio, oneWay, []string{"By=s"}, nil},
		{"append, plain", AppendForward, istio, nil, []string{"By=s"}, nil},
		{"set", SanitizeSet, istio, mutual, []string{"By=s", "By=t"}, []string{element}},
		{"set, no details", SanitizeSet, ClientCertDetails{}, mutual, nil, []string{"By=spiffe://td/ns/a/sa/server;Hash=ab12"}},
		{"set, plain", SanitizeSet, istio, nil, []string{"By=s"}, nil},
		{"always", AlwaysForwardOnly, istio, nil, []string{"By=s"}, []string{"By=s"}},
		{"bare certificate", SanitizeSet, istio, &http.TLSInfo{Peer: &http.Certificate{Digest: "0"}}, nil, []string{`Hash=0;Subject="";URI=`}},
		{"names with separators", SanitizeSet, ClientCertDetails{URI: true, DNS: true},
			&http.TLSInfo{Peer: &http.Certificate{Digest: "0", URIs: []string{`spiffe://td/a,By=b;URI="c`}, DNS: []string{"a;b", "\r\nx: y"}}}, nil,
			[]string{`Hash=0;URI="spiffe://td/a,By=b;URI=\"c";DNS="a;b";DNS="??x: y"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := xfcc(&Config{ForwardClientCert: c.mode, ClientCert: c.details}, c.tls, c.in...)
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestForwardClientCertOnce: a connection makes its element once for a configuration.
func TestForwardClientCertOnce(t *testing.T) {
	info := &http.ConnInfo{TLS: &http.TLSInfo{Peer: &http.Certificate{Digest: "0", Subject: "CN=x", Chain: [][]byte{make([]byte, 1000)}}}}
	cfg := &Config{ForwardClientCert: SanitizeSet, ClientCert: ClientCertDetails{Cert: true}}
	c := &conn{info: info}
	st := &stream{c: c, cfg: cfg}
	st.ex.Conn = info
	st.forwardClientCert()
	if n := testing.AllocsPerRun(100, func() {
		st.ex.Req.Fields.Reset()
		st.forwardClientCert()
	}); n > 0 {
		t.Errorf("%v allocations for a request", n)
	}
	st.cfg = &Config{ForwardClientCert: SanitizeSet, ClientCert: ClientCertDetails{Subject: true}}
	st.forwardClientCert()
	if v, _ := st.ex.Req.Fields.Get(http.HeaderXForwardedClientCert); string(v) != `Hash=0;Subject="CN=x"` {
		t.Errorf("under a new configuration: %s", v)
	}
}

// parseXFCC is a reader of the field as services have one: elements are parted by
// commas, their pairs by semicolons, and neither counts within quotes.
func parseXFCC(text string) (elements [][][2]string, err error) {
	var pairs [][2]string
	for {
		key, rest, ok := strings.Cut(text, "=")
		if !ok || strings.ContainsAny(key, `,;"`) {
			return nil, fmt.Errorf("no key in %q", text)
		}
		var value strings.Builder
		quoted := strings.HasPrefix(rest, `"`)
		i := 0
		if quoted {
			for i = 1; ; i++ {
				if i >= len(rest) {
					return nil, fmt.Errorf("a quote is open in %q", rest)
				}
				if rest[i] == '"' {
					i++
					break
				}
				if rest[i] == '\\' && i+1 < len(rest) {
					i++
				}
				value.WriteByte(rest[i])
			}
		} else {
			for ; i < len(rest) && rest[i] != ',' && rest[i] != ';'; i++ {
				value.WriteByte(rest[i])
			}
		}
		pairs = append(pairs, [2]string{key, value.String()})
		if i == len(rest) {
			return append(elements, pairs), nil
		}
		switch rest[i] {
		case ',':
			elements, pairs = append(elements, pairs), nil
		case ';':
		default:
			return nil, fmt.Errorf("%q stands after a quote", rest[i:])
		}
		text = rest[i+1:]
	}
}

// FuzzForwardClientCert: whatever a certificate has for names, a reader of the field
// finds one element more, last, and in it these names and no others.
func FuzzForwardClientCert(f *testing.F) {
	f.Add("spiffe://td/ns/a/sa/b", "a.example.com", "CN=x", "By=s;Hash=1")
	f.Add(`x",By="y`, ";=,", `CN=\"q\"\,`, `Subject="a,b";URI=c`)
	f.Add("a\r\nb: c", "\x00", "", "")
	f.Add(`\`, `\"`, `\\`, "A=")
	f.Fuzz(func(t *testing.T, uri, dns, subject, came string) {
		if subject != escapedSubject(subject) {
			return // Subjects come escaped (RFC 2253).
		}
		tls := &http.TLSInfo{Own: &http.Certificate{URIs: []string{uri}}, Peer: &http.Certificate{Digest: "ab", Subject: subject, URIs: []string{uri}, DNS: []string{dns}}}
		cfg := &Config{ForwardClientCert: AppendForward, ClientCert: ClientCertDetails{Subject: true, URI: true, DNS: true}}
		var in []string
		before := 0
		if e, err := parseXFCC(came); err == nil {
			in, before = []string{came}, len(e)
		}
		got := xfcc(cfg, tls, in...)
		if len(got) != 1 || strings.ContainsAny(got[0], "\r\n\x00") && !strings.ContainsAny(came, "\r\n\x00") {
			t.Fatalf("%q", got)
		}
		elements, err := parseXFCC(got[0])
		if err != nil {
			t.Fatalf("%q: %v", got[0], err)
		}
		if len(elements) != before+1 {
			t.Fatalf("%q has %d elements, want %d", got[0], len(elements), before+1)
		}
		want := [][2]string{{"By", clean(uri)}, {"Hash", "ab"}, {"Subject", unescaped(clean(subject))}, {"URI", clean(uri)}, {"DNS", clean(dns)}}
		if last := elements[before]; fmt.Sprint(last) != fmt.Sprint(want) {
			t.Fatalf("%q reads as %q, want %q", got[0], last, want)
		}
	})
}

// clean is a name as it may be told: without control characters.
func clean(name string) string {
	out := []byte(name)
	for i, c := range out {
		if c < ' ' || c == 0x7f {
			out[i] = '?'
		}
	}
	return string(out)
}

// escapedSubject leaves out of a text what can't be in an escaped name: quotes without a
// backslash, and a backslash at its end.
func escapedSubject(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			out.WriteString(s[i : i+2])
			i++
		case s[i] != '"' && s[i] != '\\':
			out.WriteByte(s[i])
		}
	}
	return out.String()
}

func unescaped(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
