// SPDX-License-Identifier: Apache-2.0

package accesslog

import "testing"

func TestText(t *testing.T) {
	for format, want := range map[string]string{
		"plain":                             "plain",
		"%REQ(:METHOD)% %RESPONSE_CODE%":    "GET 200",
		"[%REQ(x-no)%]":                     "[]",
		"%REQ(x-no)%":                       "",
		"%REQ(x-q)% %UPSTREAM_HOST%":        "a \"b\" 127.0.0.1:28902", // as it is
		"%UPSTREAM_CLUSTER% %ROUTE_NAME%%%": "b def%",
	} {
		text, err := ParseText(format)
		if err != nil {
			t.Fatal(err)
		}
		ex := answered()
		ex.Req.Fields.Add([]byte("x-q"), []byte(`a "b"`))
		got, ok := text.Append([]byte(">"), ex)
		if string(got) != ">"+want || ok != (want != "") {
			t.Errorf("%s is %q, %t; want %q", format, got, ok, want)
		}
	}
	if _, err := ParseText("a %NOTHING%"); err == nil {
		t.Error("an unknown operator is taken")
	}
}
