// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 this tests the old fields.

package accesslog

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestOldFields(t *testing.T) {
	s, err := structpb.NewStruct(map[string]any{"c": "%RESPONSE_CODE%"})
	if err != nil {
		t.Fatal(err)
	}
	none := line(t, &filev3.FileAccessLog{}, answered())
	tests := []struct {
		cfg  *filev3.FileAccessLog
		want string
	}{
		{&filev3.FileAccessLog{AccessLogFormat: &filev3.FileAccessLog_Format{Format: "%RESPONSE_CODE%!"}}, "200!"},
		{&filev3.FileAccessLog{AccessLogFormat: &filev3.FileAccessLog_Format{}}, none},
		{&filev3.FileAccessLog{AccessLogFormat: &filev3.FileAccessLog_JsonFormat{JsonFormat: s}}, "{\"c\":200}\n"},
		{&filev3.FileAccessLog{AccessLogFormat: &filev3.FileAccessLog_TypedJsonFormat{TypedJsonFormat: s}}, "{\"c\":200}\n"},
		{&filev3.FileAccessLog{AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_TextFormat{TextFormat: "t%RESPONSE_CODE%"}}}}, "t200"},
	}
	for i, tt := range tests {
		if got := line(t, tt.cfg, answered()); got != tt.want {
			t.Errorf("%d: got %q, want %q", i, got, tt.want)
		}
	}
}
