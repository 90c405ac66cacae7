// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"maps"
	nethttp "net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"pillion/test/rig"
)

// metadataValues are operators of all kinds of values, there or not.
func metadataValues() (values []string) {
	const jwt, rbac = "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:", "%DYNAMIC_METADATA(envoy.filters.http.rbac:"
	for _, key := range []string{"iss", "sub", "groups", "mixed", "nested", "nested:one:two", "number", "half", "truth", "lie", "nothing", "empty", "none", "iss:deeper"} {
		values = append(values, jwt+key+")%", jwt+key+"):3%")
	}
	for _, key := range []string{"r_enforced_effective_policy_id", "r_enforced_engine_result", "istio_dry_run_allow_shadow_effective_policy_id",
		"istio_dry_run_allow_shadow_engine_result", "enforced_engine_result"} {
		values = append(values, rbac+key+")%")
	}
	return append(values, "%DYNAMIC_METADATA(no.filter)%", "%DYNAMIC_METADATA(no.filter:key)%")
}

// withFormat gives httpListener's listener another format of its access log.
func withFormat(listen, format string) string {
	before, rest, _ := strings.Cut(listen, "log_format: ")
	_, after, _ := strings.Cut(rest, "\n")
	return before + "log_format: {" + format + "}}}]\n" + after
}

// TestDynamicMetadataLikeEnvoy: what filters found out stands in access logs, text
// and JSON, and in header fields as with a real Envoy.
func TestDynamicMetadataLikeEnvoy(t *testing.T) {
	withSetMetadata(t)
	filters := tokenClaims + strings.TrimSuffix(rbacFilter, "}},") + `, rules_stat_prefix: r_, shadow_rules_stat_prefix: istio_dry_run_allow_,
  rules: ` + permit(`{url_path: {path: {prefix: /ok}}}`) + `, shadow_rules: ` + permit(`{url_path: {path: {exact: /s}}}`) + `}},`
	var fields, object strings.Builder
	values := metadataValues()
	for i, v := range values {
		fmt.Fprintf(&fields, `{header: {key: m%d, value: "%s"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD, keep_empty_value: true},`, i, v)
		fmt.Fprintf(&object, `m%d: "%s", t%d: "<%s>", `, i, v, i, v)
	}
	listen := httpListener("", filters, `{match: {prefix: /}, direct_response: {status: 200}, response_headers_to_add: [`+fields.String()+`]}`)
	for _, format := range []string{
		`text_format_source: {inline_string: "%REQ(:PATH)% ` + strings.Join(values, "|") + `\n"}`,
		`text_format_source: {inline_string: "%REQ(:PATH)% %DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:nested)%\n"}, omit_empty_values: true`,
		`json_format: {path: "%REQ(:PATH)%", ` + object.String() + `}`,
	} {
		both := bothJudges(t, withFormat(listen, format))
		var answers [2]map[string]string
		var logs [2]map[string]any
		for i, j := range both {
			answers[i] = map[string]string{}
			for _, path := range []string{"/ok", "/s", "/no"} {
				maps.Copy(answers[i], metadataAnswer(t, j.addr, path))
			}
			rig.Until(t, j.name+" logs", func() (err error) {
				logs[i], err = metadataLines(j.log)
				return err
			})
		}
		for path, want := range logs[0] {
			if got := logs[1][path]; !reflect.DeepEqual(got, want) {
				t.Errorf("%s: Envoy logs\n%v\nwe log\n%v", path, want, got)
			}
		}
		if len(answers[0]) < len(values) {
			t.Errorf("there are %d fields", len(answers[0]))
		}
		for field, want := range answers[0] {
			if got, ok := answers[1][field]; got != want || !ok {
				t.Errorf("the field %s is %q, %t, Envoy's is %q", field, got, ok, want)
			}
		}
	}
}

// metadataAnswer returns the fields m0, m1 and so on of an answer, by path and name.
func metadataAnswer(t *testing.T, addr, path string) map[string]string {
	t.Helper()
	resp, err := nethttp.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	out := map[string]string{}
	for name, v := range resp.Header {
		if strings.HasPrefix(name, "M") {
			out[path+" "+name] = strings.Join(v, "|")
		}
	}
	return out
}

// metadataLines reads an access log of three requests, by their paths.
func metadataLines(log string) (map[string]any, error) {
	text, err := os.ReadFile(log)
	if err != nil {
		return nil, err
	}
	lines := map[string]any{}
	for line := range strings.Lines(string(text)) {
		path, rest, _ := strings.Cut(line, " ")
		object := map[string]any{}
		if json.Unmarshal([]byte(line), &object) == nil {
			lines[fmt.Sprint(object["path"])] = object
			continue
		}
		lines[path] = rest
	}
	if len(lines) != 3 {
		return nil, fmt.Errorf("the log is %q", text)
	}
	return lines, nil
}
