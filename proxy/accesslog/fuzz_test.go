// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"
)

// FuzzFormat compiles any text as a format, text and JSON, and logs exchanges
// with it: nothing may panic, a value may not break its line, and JSON must be
// JSON.
func FuzzFormat(f *testing.F) {
	for _, seed := range []string{istioFormat, defaultFormat, "%START_TIME(%Y %E3S %f %s)%", "%REQ(a?b):3% %% %RESP(:STATUS)%",
		"%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%", "%GRPC_STATUS(NUMBER)% %ENVIRONMENT(HOME)%", `%START_TIME(")%`, "%REQ(", "%REQ(a):", "%",
		"%DYNAMIC_METADATA(f)% %DYNAMIC_METADATA(f:text):2% %DYNAMIC_METADATA(f:list)%"} {
		f.Add(seed, "curl/8")
		f.Add(seed, "a\"\\\r\n\x00\xff")
	}
	f.Fuzz(func(t *testing.T, format, value string) {
		ex := answered()
		ex.Req.Fields.Add([]byte("a"), []byte(value))
		ex.Req.Path = []byte(value)
		ex.Metadata.Set("f", map[string]any{"text": value, "list": []any{value, 1.0, nil, true}})
		ex.RouteName, ex.Details = value, value
		template, err := compile(format, testEnv())
		if err != nil {
			if !strings.HasPrefix(err.Error(), "offset ") {
				t.Errorf("no place in %v", err)
			}
			return
		}
		out := string(template.append(nil, ex, asText, "-"))
		if strings.Count(out, "\n") > strings.Count(format, "\n") {
			t.Errorf("a value has ended a line: %q", out)
		}
		n, err := compileJSON(structpb.NewStringValue(format), "x", testEnv())
		if err != nil {
			t.Fatal(err)
		}
		for _, omit := range []bool{false, true} {
			out, ok := n.append(nil, ex, omit)
			if ok != json.Valid(out) || !ok && !omit {
				t.Errorf("%q makes %q", format, out)
			}
		}
	})
}
