// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
	"pillion/test/wire"
)

// normalizations are the modes of Istio's pathNormalization, and what else
// encoded slashes may be treated by.
var normalizations = []struct{ name, fields string }{
	{"NONE", ""},
	{"BASE", "normalize_path: true"},
	{"MERGE_SLASHES", "normalize_path: true, merge_slashes: true"},
	{"DECODE_AND_MERGE_SLASHES", "normalize_path: true, merge_slashes: true, path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD"},
	{"redirect", "normalize_path: true, merge_slashes: true, path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT"},
	{"reject", "normalize_path: true, path_with_escaped_slashes_action: REJECT_REQUEST"},
	{"keep", "normalize_path: true, merge_slashes: true, path_with_escaped_slashes_action: KEEP_UNCHANGED"},
	{"decode alone", "path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD"},
	{"merge alone", "merge_slashes: true"},
}

var trickyPaths = []string{
	"/", "/admin", "/admin/", "//admin", "///admin", "/admin//", "/./admin", "/x/../admin", "/x/./admin", "/x/..", "/x/.", "/..", "/../..",
	"/../admin", "/x/../../admin", "/x//../admin", "/x/.../admin", "/.admin", "/x/..admin", "/x/%2e%2e/admin", "/x/%2E%2E/admin",
	"/x/%2e/admin", "/x/.%2e/admin", "/%61dmin", "/%41dmin", "/a%64min", "/admin%20", "/admin%00", "/%00", "/admin%0a", "/admin%7f", "/admin%80",
	"/%2fadmin", "/%2Fadmin", "/%5cadmin", "/%5Cadmin", "/x%2f..%2fadmin", "/x/..%2fadmin", "/x%2f%2e%2e%2fadmin", "/x/..%5cadmin",
	"/%252fadmin", "/%252e%252e/admin", "/%25%32%66admin", "/admin%", "/admin%2", "/admin%zz", "/admin%2g", "/%", "/%2", "/admin%%2f", "/%2f%2f",
	`/x\..\admin`, `\admin`, `/\admin`, `/x\y`, "/admin;x=y", "/x/..;/admin", "/x/..;a=b/admin", "/x/.;/admin", "/x/%2e%2e;/admin", "/;/admin",
	"/x/..%3b/admin", "/admin?x=/../y", "/admin?x=//y", "/admin?x=%2f", "/x/..?q", "//?//", "/admin??x", "/admin?x=%61", "/admin#f", "/admin#/../x",
	"/x/../admin#f?q", "/admin?q#f", "/x#/..", "/admin~", "/%7eadmin", "/admin!$&'()*+,:@=", "/admin%21%24%26", "/admin|x", "/admin\"x", "/admin<x>",
	"/admin^x", "/admin`x", "/admin{x}", "/admin[x]", "/x/%c0%ae%c0%ae/admin", "/\xff/admin", "/x/\xc0\xaf/admin", "/é", "/%e9", "/%C3%A9", "/a/b/c/./../../g",
	"/mid/content=5/../6", "/a/./b/../c//d/", "/..//admin", "/.//admin", "/%2e//admin", "//..//admin", "/x/%2e%2e%2f%2e%2e%2fadmin", "/x%5c..%5cadmin", "/a/..//b",
}

// stricterPaths are those that we read as another one, which Envoy reads alike:
// a dot segment with parameters is one however its dots are written, or a
// server that decodes them and drops parameters would climb.
var stricterPaths = map[string]string{"/x/%2e%2e;/admin": "/x/..;/admin"}

// plainLog undoes what our access log does to what could forge a line.
var plainLog = strings.NewReplacer(`\x5c`, `\`, `\x22`, `"`)

// TestPathsLikeEnvoy holds that a path is judged and forwarded in the form that
// Envoy makes of it, in all modes, octet by octet.
func TestPathsLikeEnvoy(t *testing.T) {
	for _, mode := range normalizations {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			fields := strings.ReplaceAll(mode.fields, ", ", "\n      ")
			listen := httpListener(fields, "", `{match: {prefix: ""}, direct_response: {status: 200}}`)
			listen = strings.Replace(listen, `%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%`, `%RESPONSE_CODE_DETAILS% %REQ(:PATH)% %RESP(LOCATION)%`, 1)
			both := bothJudges(t, listen)
			var logs [2]map[string]string
			for k, j := range both {
				for i, path := range trickyPaths {
					raw := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: a\r\nn: %d\r\n\r\n", path, i)
					resp, err := wire.Do(j.addr, raw, 2*time.Second)
					if err != nil {
						t.Log(j.name, path, err)
					}
					if err != nil && resp == nil {
						continue
					}
					if logs[k] == nil {
						logs[k] = map[string]string{}
					}
					logs[k][path] = fmt.Sprint(resp.Status)
				}
				if _, err := wire.Do(j.addr, "GET / HTTP/1.1\r\nHost: a\r\nn: end\r\n\r\n", rig.Patience); err != nil {
					t.Fatal(err)
				}
				for key, line := range j.lines(t, "end") {
					var i int
					if _, err := fmt.Sscan(key, &i); err == nil {
						logs[k][trickyPaths[i]] = line
					}
				}
			}
			for _, path := range trickyPaths {
				want, got := logs[0][path], logs[1][path]
				if other := stricterPaths[path]; other != "" && strings.Contains(mode.fields, "normalize_path") {
					want = logs[0][other]
				}
				if strings.HasPrefix(want, "400") && strings.HasPrefix(got, "400") {
					continue // what can't be a path we refuse before it is looked at
				}
				if want != plainLog.Replace(got) {
					t.Errorf("%q\nEnvoy %sours  %s", path, want, got)
				}
			}
		})
	}
}
