// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/http"
)

// istioFormat is the text format that Istio configures by default.
const istioFormat = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" " +
	"%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% " +
	"\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% " +
	"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" " +
	"\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% " +
	"%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% " +
	"%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"

// at is the moment of http.Now at a wall-clock time.
func at(t time.Time) int64 { return int64(t.Sub(http.WallTime(0))) }

func setFields(f *http.Fields, lines ...string) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		f.Add([]byte(name), []byte(value))
	}
}

// answered is the exchange that a real Envoy logged as in the wants below.
func answered() *http.Exchange {
	start := at(time.Date(2026, 11, 23, 13, 46, 21, 688_288_000, time.UTC))
	ex := &http.Exchange{
		Conn:  &http.ConnInfo{Local: "127.0.0.1:28900", Remote: "127.0.0.1:40494"},
		Start: start, RequestEnd: start + 1000, UpstreamStart: start + 100_000,
		UpstreamFirst: start + 51_400_000, End: start + 51_560_000,
		RequestHeadBytes: 102, ResponseHeadBytes: 143, ResponseBodyBytes: 2,
		RouteName: "def", ClusterName: "b", Upstream: &http.HostFacts{ClusterName: "b", Address: "127.0.0.1:28902"},
		UpstreamLocal: "127.0.0.1:38536", UpstreamProtocol: http.HTTP11, Attempts: 1, Details: "via_upstream",
	}
	ex.Req.RawMethod, ex.Req.Path, ex.Req.Authority = []byte("GET"), []byte("/x?a=b"), []byte("a.b:80")
	ex.Req.Protocol, ex.Req.Scheme = http.HTTP11, []byte("http")
	setFields(&ex.Req.Fields, "X-M: one", "X-M: two", "X-L: abcdef", "X-E: ", "User-Agent: curl/8",
		"x-request-id: ea805a1d-6c2f-4757-ae61-70c13e8c9741")
	ex.Resp.Status = 200
	setFields(&ex.Resp.Fields, "X-M: r1", "X-M: r2", "x-envoy-upstream-service-time: 50")
	return ex
}

// statNamed is a cluster of which only the name in statistics is known.
type statNamed string

func (s statNamed) StatName() string { return string(s) }

// refused is the exchange of a request whose bytes were wrong.
func refused() *http.Exchange {
	start := at(time.Date(2026, 11, 23, 13, 46, 25, 817_041_000, time.UTC))
	ex := &http.Exchange{
		Conn:  &http.ConnInfo{Local: "127.0.0.1:28900", Remote: "127.0.0.1:47456"},
		Start: start, End: start + 61_000, ResponseBodyBytes: 11,
		Flags: http.FlagDownstreamProtocolError, Details: "http1.codec_error",
	}
	ex.Req.Protocol, ex.Resp.Status = http.HTTP11, 400
	return ex
}

func textConfig(path, format string) *filev3.FileAccessLog {
	return &filev3.FileAccessLog{Path: path, AccessLogFormat: &filev3.FileAccessLog_LogFormat{
		LogFormat: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: format}}}}}}
}

func jsonConfig(t *testing.T, format map[string]any) *filev3.FileAccessLog {
	t.Helper()
	s, err := structpb.NewStruct(format)
	if err != nil {
		t.Fatal(err)
	}
	return &filev3.FileAccessLog{Path: "x", AccessLogFormat: &filev3.FileAccessLog_LogFormat{
		LogFormat: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: s}}}}
}

func withoutQuery(cfg *filev3.FileAccessLog) *filev3.FileAccessLog {
	cfg.GetLogFormat().Formatters = []*corev3.TypedExtensionConfig{{Name: "envoy.formatter.req_without_query",
		TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com" + withoutQueryType}}}
	return cfg
}

func testEnv() *compileEnv {
	return &compileEnv{hostname: "vm", getenv: func(name string) (string, bool) { return "/root", name == "HOME" }}
}

// logger compiles a configuration without opening its file.
func logger(t *testing.T, cfg *filev3.FileAccessLog) *Logger {
	t.Helper()
	l := &Logger{}
	if err := l.compile(cfg, testEnv()); err != nil {
		t.Fatal(err)
	}
	return l
}

func line(t *testing.T, cfg *filev3.FileAccessLog, ex *http.Exchange) string {
	t.Helper()
	return string(logger(t, cfg).Append(nil, ex))
}

// TestEnvoyLines compares with lines that Envoy 1.40 wrote for the same
// requests.
func TestEnvoyLines(t *testing.T) {
	reset := answered()
	reset.Resp.Status, reset.Flags, reset.End = 503, http.FlagUpstreamConnTermination, reset.Start+1_552_984_000
	reset.Details, reset.ResponseBodyBytes = "upstream_reset_before_response_started{connection_termination}", 95
	reset.Resp.Fields.Reset()
	forwarded := answered()
	forwarded.ClientAddress, forwarded.RequestBodyBytes = []byte("5.6.7.8"), 5
	setFields(&forwarded.Req.Fields, "X-Forwarded-For: 1.2.3.4, 5.6.7.8")
	forwarded6 := answered()
	forwarded6.ClientAddress = []byte("2001:db8::1")
	rewritten := answered()
	rewritten.OriginalPath = []byte("/rw/a?x=1")
	plain := &filev3.FileAccessLog{Path: "x"}
	istio := textConfig("x", istioFormat)
	tests := []struct {
		name string
		cfg  *filev3.FileAccessLog
		ex   *http.Exchange
		want string
	}{
		{"answered", istio, answered(), `[2026-11-23T13:46:21.688Z] "GET /x?a=b HTTP/1.1" 200 - via_upstream - "-" 0 2 51 50 "-" "curl/8" "ea805a1d-6c2f-4757-ae61-70c13e8c9741" "a.b:80" "127.0.0.1:28902" b 127.0.0.1:38536 127.0.0.1:28900 127.0.0.1:40494 - def`},
		{"no format", plain, answered(), `[2026-11-23T13:46:21.688Z] "GET /x?a=b HTTP/1.1" 200 - 0 2 51 50 "-" "curl/8" "ea805a1d-6c2f-4757-ae61-70c13e8c9741" "a.b:80" "127.0.0.1:28902"`},
		{"refused", istio, refused(), `[2026-11-23T13:46:25.817Z] "- - HTTP/1.1" 400 DPE http1.codec_error - "-" 0 11 0 - "-" "-" "-" "-" "-" - - 127.0.0.1:28900 127.0.0.1:47456 - -`},
		{"upstream closed", istio, reset, `[2026-11-23T13:46:21.688Z] "GET /x?a=b HTTP/1.1" 503 UC upstream_reset_before_response_started{connection_termination} - "-" 0 95 1552 - "-" "curl/8" "ea805a1d-6c2f-4757-ae61-70c13e8c9741" "a.b:80" "127.0.0.1:28902" b 127.0.0.1:38536 127.0.0.1:28900 127.0.0.1:40494 - def`},
		{"forwarded", istio, forwarded, `[2026-11-23T13:46:21.688Z] "GET /x?a=b HTTP/1.1" 200 - via_upstream - "-" 5 2 51 50 "1.2.3.4, 5.6.7.8" "curl/8" "ea805a1d-6c2f-4757-ae61-70c13e8c9741" "a.b:80" "127.0.0.1:28902" b 127.0.0.1:38536 127.0.0.1:28900 5.6.7.8:0 - def`},
		{"forwarded from IPv6", textConfig("x", "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%\n"), forwarded6, `[2001:db8::1]:0 2001:db8::1 0`},
		{"rewritten", istio, rewritten, `[2026-11-23T13:46:21.688Z] "GET /rw/a?x=1 HTTP/1.1" 200 - via_upstream - "-" 0 2 51 50 "-" "curl/8" "ea805a1d-6c2f-4757-ae61-70c13e8c9741" "a.b:80" "127.0.0.1:28902" b 127.0.0.1:38536 127.0.0.1:28900 127.0.0.1:40494 - def`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := line(t, tt.cfg, tt.ex); got != tt.want+"\n" {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestOperators(t *testing.T) {
	grpc := answered()
	grpc.RespTrailers = &http.Fields{}
	setFields(grpc.RespTrailers, "grpc-status: 14", "X-T: tee")
	grpc.GRPC = true
	odd := answered()
	setFields(&odd.Resp.Fields, "grpc-status: 99")
	odd.GRPC = true
	noCode := answered()
	noCode.GRPC = true
	setFields(&noCode.Resp.Fields, "grpc-status: x")
	noStatus := answered()
	noStatus.GRPC = true
	odd.Flags = http.FlagNoHealthyUpstream | http.FlagUpstreamRetryLimitExceeded
	odd.Details, odd.UpstreamFailure = "a b", "delayed connect error: Connection refused"
	odd.TerminationDetails = "rbac denied"
	secure := &http.Exchange{Conn: &http.ConnInfo{TLS: &http.TLSInfo{
		Version: "TLSv1.3", Peer: &http.Certificate{Subject: `CN=a,OU="`, NotBefore: time.Unix(1, 0), NotAfter: time.Unix(1e9, 0)},
	}}}
	odd.Conn = &http.ConnInfo{Local: "[::1]:80", Remote: "pipe", SNI: "a.b-c_d\n\"x", TLS: &http.TLSInfo{Peer: &http.Certificate{URIs: []string{"spiffe://a"}}, Own: &http.Certificate{URIs: []string{"spiffe://b"}}}}
	told := &http.Exchange{}
	told.Metadata.Set("f", map[string]any{"t": `a"`, "l": []any{"\n"}, "n": nil})
	redirected := &http.Exchange{Conn: &http.ConnInfo{Local: "127.0.0.1:15001", OriginalDst: "10.0.0.1:80"}}
	tests := []struct {
		format string
		ex     *http.Exchange
		want   string
		kept   bool // "-" is a value, and stays when empty values are left out
	}{
		{"%DYNAMIC_METADATA(f:t)% %DYNAMIC_METADATA(f:t):1% %DYNAMIC_METADATA(f:l)% %DYNAMIC_METADATA(f:n)%", told, `a\x22 a ["\n"] -`, false},
		{"%DYNAMIC_METADATA(g)% %DYNAMIC_METADATA(f:t:x)% %DYNAMIC_METADATA(f:l:0)%", told, "- - -", false},
		{"100%% %% a", answered(), "100% % a", false},
		{"%REQ(X-M)% %RESP(x-m)%", answered(), "one r1", false},
		{"%REQ(X-L):3% %REQ(X-NO?X-L):3% %REQ(X-L):9%", answered(), "abc abc abcdef", false},
		{"[%REQ(X-E)%] [%REQ(X-E?X-L)%]", answered(), "[] []", false},
		{"%REQ(:AUTHORITY)% %REQ(host)% %REQ(:SCHEME)% %RESP(:STATUS)% %RESP(:STATUS):1%", answered(), "a.b:80 a.b:80 http 200 2", false},
		{"%REQ(X-NO)% %REQ(:what)% %RESP(:PATH)% %TRAILER(X-T)%", answered(), "- - - -", false},
		{"%RESP(X-NO?:STATUS)% %RESP(X-M?:STATUS)%", answered(), "200 r1", false},
		{"%REQ(:STATUS)% %RESP(host)%", answered(), "- -", false},
		{"%RESP(:STATUS)%", &http.Exchange{}, "-", false},
		{"%START_TIME(%Y/%m/%dT%H:%M:%S%z %s %3f %f %6f %E3S %e %j %a %b %Z)%", answered(), "2026/11/23T13:46:21+0000 1795441581 688 688288000 688288 21.688 23 327 Mon Nov UTC", false},
		{"%START_TIME(%y %A %B %h %D %F %I %p %R %T %E0S %E2f %ET %%)%", answered(), "26 Monday November Nov 11/23/26 2026-11-23 01 PM 13:46 13:46:21 21 68 T %", false},
		{"%START_TIME%", &http.Exchange{}, "-", false},
		{"%TRACE_ID% %SPAN_ID%", &http.Exchange{TraceID: [16]byte{0xab, 15: 1}, SpanID: [8]byte{7: 0xcd}}, "ab000000000000000000000000000001 00000000000000cd", false},
		{"%TRACE_ID% %SPAN_ID%", answered(), "- -", false},
		{"%FILTER_STATE(a.b:PLAIN)% %FILTER_STATE(a):3% %UPSTREAM_FILTER_STATE(x)%", answered(), "- - -", false},
		{"%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", redirected, "10.0.0.1:80 10.0.0.1 80", false},
		{"%REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)% %COMMON_DURATION(DS_RX_BEG:DS_RX_END:ns)%", answered(), "0 51 0 51560 1000", false},
		{"%REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %COMMON_DURATION(US_TX_BEG:US_RX_BEG:ms)%", refused(), "- - - -", false},
		{"%DURATION% %DURATION%", &http.Exchange{Start: 5}, "- -", false},
		{"%UPSTREAM_PROTOCOL% %PROTOCOL%", &http.Exchange{}, "- -", false},
		{"%UPSTREAM_PROTOCOL% %PROTOCOL%", answered(), "HTTP/1.1 HTTP/1.1", false},
		{"%RESPONSE_FLAGS_LONG% %RESPONSE_FLAGS%", answered(), "- -", true},
		{"%RESPONSE_FLAGS_LONG% %RESPONSE_FLAGS%", odd, "NoHealthyUpstream,UpstreamRetryLimitExceeded UH,URX", false},
		{"%RESPONSE_CODE_DETAILS% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", odd, "a_b a b", false},
		{"%UPSTREAM_TRANSPORT_FAILURE_REASON% %CONNECTION_TERMINATION_DETAILS%", odd, "delayed_connect_error:_Connection_refused rbac denied", false},
		{"%UPSTREAM_CLUSTER% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%", answered(), "b 127.0.0.1:28902 127.0.0.1 28902", false},
		{"%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW%", &http.Exchange{ClusterName: "a", Cluster: statNamed("a;")}, "a; a", false},
		{"%UPSTREAM_CLUSTER% %UPSTREAM_HOST% %UPSTREAM_REMOTE_PORT% %UPSTREAM_LOCAL_PORT%", refused(), "- - - -", false},
		{"%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %UPSTREAM_LOCAL_PORT% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", answered(), "127.0.0.1 38536 1", false},
		{"%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_PORT%", answered(),
			"127.0.0.1 28900 127.0.0.1 40494 127.0.0.1:40494 127.0.0.1 40494", false},
		{"%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%", odd, "::1 pipe -", false},
		{"%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_PEER_URI_SAN% %REQUESTED_SERVER_NAME%", &http.Exchange{}, "- - - -", false},
		{"%REQUESTED_SERVER_NAME% %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_LOCAL_URI_SAN%", odd, "a.b-c_d__x spiffe://a spiffe://b", false},
		{"%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_PEER_CERT_V_START% %DOWNSTREAM_PEER_CERT_V_END(%Y)% %DOWNSTREAM_PEER_SUBJECT%", secure, "TLSv1.3 1970-01-01T00:00:01.000Z 2001 CN=a,OU=\\x22", false},
		{"%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_PEER_CERT_V_START% %DOWNSTREAM_PEER_SUBJECT%", answered(), "- - -", false},
		{"%REQUEST_HEADERS_BYTES% %RESPONSE_HEADERS_BYTES%", answered(), "102 143", false},
		{"%HOSTNAME% %ENVIRONMENT(HOME)% %ENVIRONMENT(NOPE)%", answered(), "vm /root -", true},
		{"%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER% %TRAILER(X-T)%", grpc, "Unavailable UNAVAILABLE 14 14 tee", false},
		{"%GRPC_STATUS% %GRPC_STATUS_NUMBER%", odd, "99 99", false},
		{"%GRPC_STATUS% %GRPC_STATUS_NUMBER%", answered(), "- -", false},
		{"%GRPC_STATUS% %GRPC_STATUS_NUMBER%", noCode, "-1 -1", false},
		{"%GRPC_STATUS% %GRPC_STATUS_NUMBER%", noStatus, "Unknown 2", false},
		{"%GRPC_STATUS% %GRPC_STATUS_NUMBER%", &http.Exchange{GRPC: true}, "- -", false},
		{"%REQ_WITHOUT_QUERY(:PATH)% %REQ_WITHOUT_QUERY(X-NO?:PATH):1%", answered(), "/x /", false},
		{"%RESPONSE_CODE% %BYTES_SENT% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", &http.Exchange{}, "0 0 0", false},
	}
	for _, tt := range tests {
		cfg := withoutQuery(textConfig("x", tt.format))
		if got := line(t, cfg, tt.ex); got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.format, got, tt.want)
		}
		want := strings.Fields(tt.want)
		for i := range want {
			if want[i] == "-" && !tt.kept {
				want[i] = ""
			}
		}
		cfg.GetLogFormat().OmitEmptyValues = true
		if got := line(t, cfg, tt.ex); got != strings.Join(want, " ") {
			t.Errorf("%s, omitting:\n got %q\nwant %q", tt.format, got, want)
		}
	}
}

func TestEmitTime(t *testing.T) {
	got := line(t, textConfig("x", "%EMIT_TIME%|%START_TIME_LOCAL%"), answered())
	emitted, started, _ := strings.Cut(got, "|")
	e, err := time.Parse("2006-01-02T15:04:05.000Z", emitted)
	if err != nil || time.Since(e).Abs() > time.Minute {
		t.Errorf("EMIT_TIME %q: %v", emitted, err)
	}
	s, err := time.Parse("2006-01-02T15:04:05.000-0700", started)
	if err != nil || !s.Equal(time.Date(2026, 11, 23, 13, 46, 21, 688_000_000, time.UTC)) {
		t.Errorf("START_TIME_LOCAL %q: %v", started, err)
	}
}

// TestJSON compares with what Envoy 1.40 wrote for the same request.
func TestJSON(t *testing.T) {
	format := map[string]any{
		"start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%",
		"bytes": "%BYTES_SENT%", "duration": "%DURATION%", "mix": "a %REQ(X-NOPE)% %RESPONSE_CODE%", "nope": "%REQ(X-NOPE)%",
		"num": 3, "frac": 1.5, "b": true, "nul": nil, "nest": map[string]any{"z": "%REQ(:PATH)%", "a": "%REQ(X-NOPE)%"},
		"list":     []any{"%PROTOCOL%", 1, map[string]any{"k": "%REQ(X-NOPE)%"}},
		"attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "port": "%DOWNSTREAM_LOCAL_PORT%", "emptyhdr": "%REQ(X-E)%",
		"host": "%UPSTREAM_HOST%", "status": "%RESP(:STATUS)%", "term": "%CONNECTION_TERMINATION_DETAILS%",
		"cd": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%", "st": "%START_TIME(%s)%", "empty": "", "const": "x 100%%",
		"emptynest": map[string]any{"a": "%REQ(X-NOPE)%"},
	}
	cfg := jsonConfig(t, format)
	tests := []struct {
		name string
		ex   *http.Exchange
		omit bool
		want string
	}{
		{"answered", answered(), false, `{"attempts":1,"b":true,"bytes":2,"cd":51560,"code":200,"const":"x 100%","duration":51,"empty":"","emptyhdr":"","emptynest":{"a":null},"flags":"-","frac":"1.5","host":"127.0.0.1:28902","list":["HTTP/1.1",1,{"k":null}],"method":"GET","mix":"a - 200","nest":{"a":null,"z":"/x?a=b"},"nope":null,"nul":null,"num":3,"port":28900,"st":"1795441581","start_time":"2026-11-23T13:46:21.688Z","status":"200","term":null}`},
		{"answered, omitting", answered(), true, `{"attempts":1,"b":true,"bytes":2,"cd":51560,"code":200,"const":"x 100%","duration":51,"empty":"","emptyhdr":"","flags":"-","frac":"1.5","host":"127.0.0.1:28902","list":["HTTP/1.1",1],"method":"GET","mix":"a  200","nest":{"z":"/x?a=b"},"num":3,"port":28900,"st":"1795441581","start_time":"2026-11-23T13:46:21.688Z","status":"200"}`},
		{"refused, omitting", refused(), true, `{"attempts":0,"b":true,"bytes":11,"cd":61,"code":400,"const":"x 100%","duration":0,"empty":"","flags":"DPE","frac":"1.5","list":["HTTP/1.1",1],"mix":"a  400","num":3,"port":28900,"st":"1795441585","start_time":"2026-11-23T13:46:25.817Z","status":"400"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg.GetLogFormat().OmitEmptyValues = tt.omit
			got := line(t, cfg, tt.ex)
			if got != tt.want+"\n" {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			if !json.Valid([]byte(got)) {
				t.Error("not JSON")
			}
		})
	}
	only := jsonConfig(t, map[string]any{"a": "%REQ(X-NOPE)%", "b": []any{nil}})
	only.GetLogFormat().OmitEmptyValues = true
	if got := line(t, only, answered()); got != "{}\n" {
		t.Errorf("nothing to say: %q", got)
	}
}

// TestInjection: no value may end its field, its line, or a terminal's calm.
func TestInjection(t *testing.T) {
	const evil = "a\"b\\c\td\r\n\x1b[31m\x00\x7fé"
	ex := answered()
	ex.Req.Fields.Reset()
	ex.Req.Fields.Add([]byte("X"), []byte(evil))
	ex.Req.Fields.Add([]byte("Y"), []byte("\xff\xc3\xa4<&"))
	ex.UpstreamFailure, ex.RouteName = evil, evil
	ex.Conn = &http.ConnInfo{SNI: evil}
	const escaped = `a\x22b\x5cc\x09d\x0d\x0a\x1b[31m\x00\x7fé`
	got := line(t, textConfig("x", "%REQ(X)% %ROUTE_NAME% %UPSTREAM_TRANSPORT_FAILURE_REASON% %REQUESTED_SERVER_NAME% %REQ(Y)%"), ex)
	if want := escaped + " " + escaped + " " + escaped + " a_b_c_d____31m____ \xff\xc3\xa4<&"; got != want {
		t.Errorf("text:\n got %q\nwant %q", got, want)
	}
	got = line(t, jsonConfig(t, map[string]any{"x": "%REQ(X)%", "y": "%REQ(Y)%", "z\"": "\"%REQ(X)%\n"}), ex)
	want := `{"x":"a\u0022b\u005cc\u0009d\u000d\u000a\u001b[31m\u0000\u007fé","y":"\u00ff\u00c3\u00a4<&",` +
		`"z\u0022":"\u0022a\u0022b\u005cc\u0009d\u000d\u000a\u001b[31m\u0000\u007fé\u000a"}` + "\n"
	if got != want {
		t.Errorf("JSON:\n got %s\nwant %s", got, want)
	}
	var m map[string]string
	if err := json.Unmarshal([]byte(got), &m); err != nil || m["x"] != evil || m["z\""] != "\""+evil+"\n" {
		t.Errorf("%q, %v", m, err)
	}
}

func TestFormatErrors(t *testing.T) {
	tests := []struct{ format, want string }{
		{"ab %FOO%", "offset 3: unknown operator %FOO%"},
		{"%FILTER_STATE%", "needs the name of an object"},
		{"%FILTER_STATE(:PLAIN)%", "needs the name of an object"},
		{"%REQ%", "needs a name"},
		{"%REQ()%", "needs a name"},
		{"%REQ(a?b?c)%", "needs a name"},
		{"%REQ(?a)%", "needs a name"},
		{"%REQ(a?)%", "needs a name"},
		{"%REQ(a%", "no closing parenthesis"},
		{"%REQ(a):x%", "has the length \"x\""},
		{"%REQ(a):0%", "has the length \"0\""},
		{"%REQ(a):3", "is no operator"},
		{"%REQ(a)", "is no operator"},
		{"50% of", "is no operator"},
		{"%", "is no operator"},
		{"%PROTOCOL(x)%", "takes no parameter"},
		{"%PROTOCOL:3%", "takes no length"},
		{"%START_TIME(%Q)%", "unknown time conversion"},
		{"%START_TIME(%E9)%", "unknown time conversion"},
		{"%START_TIME(%)%", "unknown time conversion"},
		{"%COMMON_DURATION(DS_RX_BEG)%", "must be FROM:TO:UNIT"},
		{"%COMMON_DURATION(DS_RX_BEG:FOO:ms)%", "FOO is not a moment"},
		{"%COMMON_DURATION(DS_RX_BEG:DS_TX_END:s)%", "must be ms, us or ns"},
		{"%GRPC_STATUS(x)%", "CAMEL_STRING"},
		{"%REQ_WITHOUT_QUERY(:PATH)%", "needs the extension"},
		{"%DYNAMIC_METADATA(a:)%", "%DYNAMIC_METADATA(a:)%: must be FILTER or FILTER:KEY"},
		{"%DYNAMIC_METADATA%", "%DYNAMIC_METADATA()%: must be FILTER or FILTER:KEY"},
	}
	for _, tt := range tests {
		err := (&Logger{}).compile(textConfig("x", tt.format), testEnv())
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "log_format.text_format_source: offset ") {
			t.Errorf("%s: %v", tt.format, err)
		}
	}
	err := (&Logger{}).compile(jsonConfig(t, map[string]any{"a": map[string]any{"b": []any{"x", "%FOO%"}}}), testEnv())
	if want := "log_format.json_format.a.b[1]: offset 0: unknown operator %FOO%"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestSources: a text format may stand in several places.
func TestSources(t *testing.T) {
	source := func(d *corev3.DataSource) *filev3.FileAccessLog {
		return &filev3.FileAccessLog{Path: "x", AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: d}}}}
	}
	file := filepath.Join(t.TempDir(), "format")
	if err := os.WriteFile(file, []byte("f%RESPONSE_CODE%"), 0o600); err != nil {
		t.Fatal(err)
	}
	for d, want := range map[*corev3.DataSource]string{
		{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte("b%RESPONSE_CODE%")}}: "b200",
		{Specifier: &corev3.DataSource_EnvironmentVariable{EnvironmentVariable: "HOME"}}:     "/root",
		{Specifier: &corev3.DataSource_Filename{Filename: file}}:                             "f200",
	} {
		if got := line(t, source(d), answered()); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
	for _, bad := range []*filev3.FileAccessLog{
		source(nil),
		source(&corev3.DataSource{Specifier: &corev3.DataSource_EnvironmentVariable{EnvironmentVariable: "NOPE"}}),
		source(&corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: file + ".not"}}),
		{AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{}}},
	} {
		if err := (&Logger{}).compile(bad, testEnv()); err == nil || !strings.HasPrefix(err.Error(), "log_format") {
			t.Errorf("%v: %v", bad, err)
		}
	}
	cfg := withoutQuery(textConfig("x", "a"))
	cfg.GetLogFormat().Formatters[0].TypedConfig.TypeUrl = "type.googleapis.com/envoy.extensions.formatter.cel.v3.Cel"
	if err := (&Logger{}).compile(cfg, testEnv()); err == nil || !strings.Contains(err.Error(), "formatters[0]") {
		t.Errorf("unknown formatter: %v", err)
	}
}

func TestAppendAllocations(t *testing.T) {
	ex := answered()
	buf := make([]byte, 0, 4096)
	for name, cfg := range map[string]*filev3.FileAccessLog{
		"text": textConfig("x", istioFormat),
		"JSON": jsonConfig(t, map[string]any{"a": "%START_TIME%", "b": "%REQ(X-M)%", "c": "%DURATION% %REQ(X-NO)%", "d": []any{"%PROTOCOL%"}}),
	} {
		l := logger(t, cfg)
		if n := testing.AllocsPerRun(100, func() { buf = l.Append(buf[:0], ex) }); n != 0 {
			t.Errorf("%s: %v allocations for a line", name, n)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	ex := answered()
	for name, cfg := range map[string]*filev3.FileAccessLog{"istio": textConfig("x", istioFormat), "default": {Path: "x"}} {
		b.Run(name, func(b *testing.B) {
			l := &Logger{}
			if err := l.compile(cfg, testEnv()); err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				buf = l.Append(buf[:0], ex)
			}
		})
	}
}
