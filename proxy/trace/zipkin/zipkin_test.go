// SPDX-License-Identifier: Apache-2.0

package zipkin

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"

	"pillion/proxy/filter"
	"pillion/proxy/filter/filtertest"
	"pillion/proxy/http"
	"pillion/proxy/proxytest"
	"pillion/proxy/trace"
)

func answers(status int) *filtertest.Client {
	return &filtertest.Client{Answer: &filter.ClientAnswer{Status: status}}
}

func env(client *filtertest.Client) *Env {
	return &Env{
		Service: `web "shop"`,
		Client:  client.Of,
		HTTP: func(s *corev3.HttpService) (*filter.HTTPService, error) {
			if s.GetHttpUri() == nil {
				return nil, errors.New("http_uri.cluster: is needed")
			}
			out := &filter.HTTPService{Client: client, Authority: "z.obs", Path: "/x", Timeout: s.GetHttpUri().GetTimeout().AsDuration()}
			out.Fields.Add([]byte("x-key"), []byte("secret"))
			return out, nil
		},
	}
}

func plainConfig() *tracev3.ZipkinConfig {
	return &tracev3.ZipkinConfig{CollectorCluster: "outbound|9411||zipkin", CollectorEndpoint: "/api/v2/spans", CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON}
}

func mustBuild(t *testing.T, client *filtertest.Client) *Collector {
	t.Helper()
	c, err := New(plainConfig(), env(client))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func richSpan() *trace.Span {
	return &trace.Span{
		TraceID: trace.TraceID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, ID: trace.SpanID{1, 2, 3, 4, 5, 6, 7, 8},
		Parent: trace.SpanID{8, 7, 6, 5, 4, 3, 2, 1}, Kind: trace.Client, Name: []byte("reviews:9080/*"),
		Start: 1_700_000_000_000_001_999, End: 1_700_000_000_123_456_789, Failed: true, Shared: true, Local: "[::ffff:10.0.0.1]:15001",
		Attributes: []trace.Attribute{{Key: "a", Value: []byte("\"quoted\" \\ \x01 ü \xff")}, {Key: "empty"}, {Key: "b", Value: []byte("c")}},
		Events:     []trace.Event{{At: 1_700_000_000_100_000_000, Name: "one"}, {At: 1_700_000_000_110_000_000, Name: "two"}},
	}
}

func TestSend(t *testing.T) {
	client := answers(202)
	c := mustBuild(t, client)
	short := &trace.Span{TraceID: trace.TraceID{15: 1}, ID: trace.SpanID{7: 1}, Name: []byte("web"), Start: 5000, End: 5001, Local: "[2001:db8::1%eth0]:80"}
	bare := &trace.Span{TraceID: trace.TraceID{15: 1}, ID: trace.SpanID{7: 2}}
	cancel := make(chan struct{})
	if err := c.Send(c.Append(c.Append(c.Append(nil, richSpan()), short), bare), 3, cancel); err != nil {
		t.Fatal(err)
	}
	call := client.Call
	if client.Cluster != "outbound|9411||zipkin" || call.Authority != client.Cluster || call.Path != "/api/v2/spans" || call.Method != "POST" || call.Multi ||
		call.Timeout != timeout || call.Cancel != (<-chan struct{})(cancel) {
		t.Errorf("call %+v", call)
	}
	if v, _ := call.Fields.Get(http.HeaderContentType); string(v) != "application/json" {
		t.Errorf("content-type %q", v)
	}
	var got any
	if err := json.Unmarshal(call.Body, &got); err != nil {
		t.Fatalf("%v: %s", err, call.Body)
	}
	const service = `{"serviceName":"web \"shop\""`
	var want any
	if err := json.Unmarshal([]byte(`[{"traceId":"0102030405060708090a0b0c0d0e0f10","id":"0102030405060708","parentId":"0807060504030201","kind":"CLIENT",
	"name":"reviews:9080/*","timestamp":1700000000000001,"duration":123454,"localEndpoint":`+service+`,"ipv4":"10.0.0.1","port":15001},
	"tags":{"a":"\"quoted\" \\ \u0001 ü \ufffd","b":"c"},"annotations":[{"timestamp":1700000000100000,"value":"one"},{"timestamp":1700000000110000,"value":"two"}],
	"shared":true},
	{"traceId":"0000000000000001","id":"0000000000000001","kind":"SERVER","name":"web","timestamp":5,"duration":1,
	"localEndpoint":`+service+`,"ipv6":"2001:db8::1","port":80}},
	{"traceId":"0000000000000001","id":"0000000000000002","kind":"SERVER","name":"","timestamp":0,"duration":1,"localEndpoint":`+service+`}}]`), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("sent\n%s\nwant\n%v", call.Body, want)
	}
}

func TestAnswers(t *testing.T) {
	for status, ok := range map[int]bool{200: true, 202: true, 302: false, 404: false, 503: false} {
		client := answers(status)
		c := mustBuild(t, client)
		if err := c.Send(c.Append(nil, richSpan()), 1, nil); (err == nil) != ok {
			t.Errorf("status %d: %v", status, err)
		}
	}
	client := &filtertest.Client{Failure: &http.Error{Detail: "no_healthy_upstream", Status: 503}}
	c := mustBuild(t, client)
	if err := c.Send(c.Append(nil, richSpan()), 1, nil); err == nil || !strings.Contains(err.Error(), "no_healthy_upstream") {
		t.Errorf("error %v", err)
	}
}

func TestService(t *testing.T) {
	client := answers(200)
	c, err := New(&tracev3.ZipkinConfig{CollectorService: &corev3.HttpService{HttpUri: &corev3.HttpUri{}}}, env(client))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(c.Append(nil, richSpan()), 1, nil); err != nil {
		t.Fatal(err)
	}
	if v, _ := client.Call.Fields.Lookup(http.HeaderOther, []byte("x-key")); client.Call.Authority != "z.obs" || client.Call.Path != "/x" || string(v) != "secret" ||
		client.Call.Timeout != 5*time.Second {
		t.Errorf("call %+v", client.Call)
	}
}

func TestConfigErrors(t *testing.T) {
	for want, change := range map[string]func(*tracev3.ZipkinConfig){
		"collector_cluster: is needed":                  func(c *tracev3.ZipkinConfig) { c.CollectorCluster = "" },
		`collector_endpoint: "x" is no path`:            func(c *tracev3.ZipkinConfig) { c.CollectorEndpoint = "x" },
		"collector_endpoint_version: HTTP_PROTO is not": func(c *tracev3.ZipkinConfig) { c.CollectorEndpointVersion = tracev3.ZipkinConfig_HTTP_PROTO },
		"collector_service.http_uri.cluster: is needed": func(c *tracev3.ZipkinConfig) { c.CollectorService = &corev3.HttpService{} },
	} {
		cfg := plainConfig()
		change(cfg)
		if _, err := New(cfg, env(&filtertest.Client{})); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	c, span, batch := mustBuild(t, &filtertest.Client{}), richSpan(), make([]byte, 0, 8<<10)
	proxytest.NoAllocs(t, "a span", func() { batch = c.Append(batch[:0], span) })
}

func BenchmarkAppend(b *testing.B) {
	span, batch := richSpan(), make([]byte, 0, 4<<10)
	b.ReportAllocs()
	for b.Loop() {
		batch = appendSpan(batch[:0], span, `,"localEndpoint":{`)
	}
}

// FuzzAppend: whatever a span holds is JSON, and encoding/json reads what it is.
func FuzzAppend(f *testing.F) {
	f.Add([]byte("name"), "key", []byte("value"), "10.0.0.1:80", int64(1_000_000), int64(2_000_000))
	f.Add([]byte{0xff, '"'}, "k\x00", []byte("\u2028\\\x7f"), "x", int64(-5), int64(5))
	f.Fuzz(func(t *testing.T, name []byte, key string, value []byte, local string, start, end int64) {
		s := &trace.Span{Name: name, Local: local, Start: start, End: end, Attributes: []trace.Attribute{{Key: key, Value: value}}}
		out := appendSpan(nil, s, endpointOf("s"))
		var got struct {
			Name string
			Tags map[string]string
		}
		if err := json.Unmarshal(out[:len(out)-1], &got); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if utf8.Valid(name) && got.Name != string(name) {
			t.Errorf("the name is %q, want %q", got.Name, name)
		}
		if utf8.ValidString(key) && utf8.Valid(value) && len(value) > 0 && got.Tags[key] != string(value) {
			t.Errorf("the tag is %q, want %q", got.Tags, value)
		}
		if !utf8.Valid(out) || bytes.ContainsAny(out, "\n\r") {
			t.Errorf("%q", out)
		}
	})
}
