// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"testing"

	"pillion/proxy/http"
)

func TestGRPCStatus(t *testing.T) {
	header := func(v string) func(*http.Exchange) {
		return func(ex *http.Exchange) { ex.Resp.Fields.AddID(http.HeaderGRPCStatus, []byte(v)) }
	}
	httpStatus := func(code int) func(*http.Exchange) {
		return func(ex *http.Exchange) { ex.Resp.Status = code }
	}
	for name, c := range map[string]struct {
		edit func(*http.Exchange)
		want string
	}{
		"ok":                     {header("0"), "0"},
		"highest":                {header("16"), "16"},
		"unknown code":           {header("17"), "-1"},
		"long":                   {header("100"), "-1"},
		"empty":                  {header(""), "2"},
		"no number":              {header("x"), "-1"},
		"sign":                   {header("-1"), "-1"},
		"nothing":                {func(*http.Exchange) {}, "2"},
		"nothing sent":           {httpStatus(0), ""},
		"bad request":            {httpStatus(400), "13"},
		"unauthorized":           {httpStatus(401), "16"},
		"forbidden":              {httpStatus(403), "7"},
		"not found":              {httpStatus(404), "12"},
		"unavailable":            {httpStatus(503), "14"},
		"teapot":                 {httpStatus(418), "2"},
		"trailers without it":    {func(ex *http.Exchange) { ex.RespTrailers = &http.Fields{}; header("3")(ex) }, "3"},
		"trailers before header": {func(ex *http.Exchange) { ex.RespTrailers = grpcTrailers("1"); header("3")(ex) }, "1"},
	} {
		if got := grpcLabel(grpcStatus(finished(c.edit))); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func grpcTrailers(status string) *http.Fields {
	f := &http.Fields{}
	f.AddID(http.HeaderGRPCStatus, []byte(status))
	return f
}
