// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"pillion/proxy/http"
)

func parseFilter(t *testing.T, text string) (*Filter, error) {
	t.Helper()
	cfg := &accesslogv3.AccessLogFilter{}
	if err := protojson.Unmarshal([]byte(text), cfg); err != nil {
		t.Fatal(err)
	}
	return ParseFilter(cfg)
}

func TestFilter(t *testing.T) {
	ok, bad, slow := answered(), refused(), answered()
	slow.End = slow.Start + 2_000_000_000
	unfinished := &http.Exchange{}
	const (
		status5  = `{"status_code_filter":{"comparison":{"op":"GE","value":{"default_value":500}}}}`
		status4  = `{"status_code_filter":{"comparison":{"op":"GE","value":{"default_value":400}}}}`
		flagged  = `{"response_flag_filter":{"flags":["NR","DPE"]}}`
		anyFlag  = `{"response_flag_filter":{}}`
		duration = `{"duration_filter":{"comparison":{"op":"GE","value":{"default_value":1000}}}}`
	)
	tests := []struct {
		filter string
		ex     *http.Exchange
		want   bool
	}{
		{status4, ok, false},
		{status4, bad, true},
		{status5, bad, false},
		{`{"status_code_filter":{"comparison":{"op":"EQ","value":{"default_value":200}}}}`, ok, true},
		{`{"status_code_filter":{"comparison":{"op":"EQ","value":{"default_value":200}}}}`, bad, false},
		{`{"status_code_filter":{"comparison":{"op":"LE","value":{"default_value":399}}}}`, ok, true},
		{`{"status_code_filter":{"comparison":{"op":"LE","value":{"default_value":399}}}}`, bad, false},
		{`{"status_code_filter":{"comparison":{"op":"NE","value":{"default_value":200}}}}`, bad, true},
		{`{"status_code_filter":{"comparison":{"op":"NE","value":{"default_value":200}}}}`, ok, false},
		{duration, ok, false},
		{duration, slow, true},
		{duration, unfinished, false},
		{flagged, ok, false},
		{flagged, bad, true},
		{`{"response_flag_filter":{"flags":["NR"]}}`, bad, false},
		{anyFlag, ok, false},
		{anyFlag, bad, true},
		{`{"not_health_check_filter":{}}`, ok, true},
		{`{"and_filter":{"filters":[` + status4 + `,` + flagged + `]}}`, bad, true},
		{`{"and_filter":{"filters":[` + status5 + `,` + flagged + `]}}`, bad, false},
		{`{"or_filter":{"filters":[` + status5 + `,` + flagged + `]}}`, bad, true},
		{`{"or_filter":{"filters":[` + status5 + `,` + flagged + `]}}`, ok, false},
	}
	for _, tt := range tests {
		f, err := parseFilter(t, tt.filter)
		if err != nil {
			t.Errorf("%s: %v", tt.filter, err)
			continue
		}
		if got := f.pass(tt.ex); got != tt.want {
			t.Errorf("%s of %d %v: got %v", tt.filter, tt.ex.Resp.Status, tt.ex.Flags, got)
		}
	}
	if f, err := ParseFilter(nil); f != nil || err != nil {
		t.Errorf("no filter: %v, %v", f, err)
	}
	for _, text := range []string{
		`{}`, `{"traceable_filter":{}}`, `{"status_code_filter":{}}`, `{"response_flag_filter":{"flags":["XX"]}}`,
		`{"and_filter":{"filters":[{"header_filter":{}}]}}`,
	} {
		if f, err := parseFilter(t, text); err == nil {
			t.Errorf("%s: accepted as %+v", text, f)
		}
	}
}

func TestLogFiltered(t *testing.T) {
	f, err := parseFilter(t, `{"response_flag_filter":{}}`)
	if err != nil {
		t.Fatal(err)
	}
	r := NewSinks(nil)
	file := &fakeFile{}
	all := logger(t, textConfig("x", "%RESPONSE_CODE%\n"))
	all.sink = newSink("x", file, &r.counts, r.log)
	r.byPath["x"] = all.sink
	some := all.WithFilter(f)
	for _, ex := range []*http.Exchange{answered(), refused()} {
		some.Log(ex)
	}
	all.Log(answered())
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := file.data.String(); got != "400\n200\n" {
		t.Errorf("got %q", got)
	}
}
