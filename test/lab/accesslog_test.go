// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pillion/test/rig"
)

// logged makes a pattern of a line of the access log: @ is for what is without
// a space, and each request has its times, sizes and id.
func logged(line string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^\[[^]]+\] ` + strings.ReplaceAll(regexp.QuoteMeta(line), "@", `[^ \n]+`) + "$")
}

// testAccessLog: Istio's default format, in some pods.
func testAccessLog(t *testing.T, m *mesh, pods ...string) {
	requests := []struct {
		name string
		call call
		pod  string
		line string
	}{
		{"outbound", call{url: "http://ratings:9080/log/1?x=y"}, "productpage-v1",
			`"GET /log/1?x=y HTTP/1.1" 200 - via_upstream - "-" 0 @ @ @ "-" "Go-http-client/1.1" "@" "ratings:9080" "10.244.0.13:9080" outbound|9080||ratings.default.svc.cluster.local 10.244.0.10:@ 10.96.0.12:9080 10.244.0.10:@ - default`},
		{"inbound", call{url: "http://ratings:9080/log/2"}, "ratings-v1",
			`"GET /log/2 HTTP/1.1" 200 - via_upstream - "-" 0 @ @ @ "-" "Go-http-client/1.1" "@" "ratings:9080" "10.244.0.13:9080" inbound|9080|| 127.0.0.6:@ 10.244.0.13:9080 10.244.0.10:@ outbound_.9080_._.ratings.default.svc.cluster.local default`},
		{"a rewritten path", call{url: "http://shop:9080/rewrite/log3"}, "productpage-v1",
			`"GET /rewrite/log3 HTTP/1.1" 200 - via_upstream - "-" 0 @ @ @ "-" "Go-http-client/1.1" "@" "other.example.com" "10.244.0.11:9080" outbound|9080|v1|shop.default.svc.cluster.local 10.244.0.10:@ 10.96.1.1:9080 10.244.0.10:@ - -`},
		{"an abort", call{url: "http://shop:9080/abort/log4", method: "POST", body: "12345"}, "productpage-v1",
			`"POST /abort/log4 HTTP/1.1" 418 FI fault_filter_abort - "-" 0 18 @ - "-" "Go-http-client/1.1" "@" "shop:9080" "-" outbound|9080|v1|shop.default.svc.cluster.local - 10.96.1.1:9080 10.244.0.10:@ - -`},
		{"a timeout", call{url: "http://shop:9080/timeout/log5?delay=5s"}, "productpage-v1",
			`"GET /timeout/log5?delay=5s HTTP/1.1" 504 UT response_timeout - "-" 0 24 @ - "-" "Go-http-client/1.1" "@" "shop:9080" "10.244.0.11:9080" outbound|9080|v1|shop.default.svc.cluster.local 10.244.0.10:@ 10.96.1.1:9080 10.244.0.10:@ - -`},
		{"retries that run out", call{url: "http://shop:9080/retry/log6?until-attempt=9"}, "productpage-v1",
			`"GET /retry/log6?until-attempt=9 HTTP/1.1" 503 URX via_upstream - "-" 0 @ @ @ "-" "Go-http-client/1.1" "@" "shop:9080" "10.244.0.11:9080" outbound|9080|v1|shop.default.svc.cluster.local 10.244.0.10:@ 10.96.1.1:9080 10.244.0.10:@ - -`},
		{"a direct response", call{url: "http://shop:9080/direct/log7"}, "productpage-v1",
			`"GET /direct/log7 HTTP/1.1" 503 - direct_response - "-" 0 12 @ - "-" "Go-http-client/1.1" "@" "shop:9080" "-" - - 10.96.1.1:9080 10.244.0.10:@ - -`},
		{"what a policy denies", call{url: "http://shop:9080/deny/log8"}, "reviews-v1",
			`"GET /deny/log8 HTTP/1.1" 403 - rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[0]] - "-" 0 19 @ - "-" "Go-http-client/1.1" "@" "shop:9080" "-" inbound|9080|| - 10.244.0.11:9080 10.244.0.10:@ outbound_.9080_.v1_.shop.default.svc.cluster.local default`},
		{"what no policy allows", call{url: "http://shop:9080/allow/log9"}, "reviews-v1",
			`"GET /allow/log9 HTTP/1.1" 403 - rbac_access_denied_matched_policy[none] - "-" 0 19 @ - "-" "Go-http-client/1.1" "@" "shop:9080" "-" inbound|9080|| - 10.244.0.11:9080 10.244.0.10:@ outbound_.9080_.v1_.shop.default.svc.cluster.local default`},
		{"a bad token", call{url: "http://shop:9080/log10", header: []string{"authorization: Bearer a.b.c"}}, "reviews-v1",
			`"GET /log10 HTTP/1.1" 401 - jwt_authn_access_denied{@} - "-" 0 @ @ - "-" "Go-http-client/1.1" "@" "shop:9080" "-" inbound|9080|| - 10.244.0.11:9080 10.244.0.10:@ outbound_.9080_.v1_.shop.default.svc.cluster.local default`},
		{"passed through", call{url: "http://10.244.0.30:9080/log11"}, "productpage-v1",
			`"GET /log11 HTTP/1.1" 200 - via_upstream - "-" 0 @ @ @ "-" "Go-http-client/1.1" "@" "10.244.0.30:9080" "10.244.0.30:9080" PassthroughCluster 10.244.0.10:@ 10.244.0.30:9080 10.244.0.10:@ - allow_any`},
		{"what isn't registered", call{from: "reviews-v1", url: "http://10.244.0.30:9080/log12"}, "reviews-v1",
			`"GET /log12 HTTP/1.1" 502 - direct_response - "-" 0 0 @ - "-" "Go-http-client/1.1" "@" "10.244.0.30:9080" "-" - - 10.244.0.30:9080 10.244.0.11:@ - block_all`},
		{"nobody listens there", call{url: "http://10.244.0.30:9082/log13"}, "productpage-v1",
			`"GET /log13 HTTP/1.1" 503 UF upstream_reset_before_response_started{remote_connection_failure|@} - "delayed_connect_error:_Connection_refused" 0 @ @ - "-" "Go-http-client/1.1" "@" "10.244.0.30:9082" "10.244.0.30:9082" PassthroughCluster @ 10.244.0.30:9082 10.244.0.10:@ - allow_any`},
		{"the gateway", call{from: "legacy", url: "http://10.244.0.14:8080/log14", host: "policy.example.com"}, "istio-ingressgateway",
			`"GET /log14 HTTP/1.1" 200 - via_upstream - "-" 0 @ @ @ "10.244.0.20" "Go-http-client/1.1" "@" "policy.example.com" "10.244.0.13:9080" outbound|9080||ratings.default.svc.cluster.local 10.244.0.14:@ 10.244.0.14:8080 10.244.0.20:@ - -`},
		{"a gateway's redirect", call{from: "legacy", url: "http://10.244.0.14:8080/log15", host: "moved.example.com"}, "istio-ingressgateway",
			`"GET /log15 HTTP/1.1" 301 - direct_response - "-" 0 0 @ - "10.244.0.20" "Go-http-client/1.1" "@" "moved.example.com" "-" - - 10.244.0.14:8080 10.244.0.20:@ - -`},
		{"HTTP/2", call{url: "http://ratings:9080/log16", http2: true}, "productpage-v1",
			`"GET /log16 HTTP/2" 200 - via_upstream - "-" 0 @ @ @ "-" "Go-http-client/2.0" "@" "ratings:9080" "10.244.0.13:9080" outbound|9080||ratings.default.svc.cluster.local 10.244.0.10:@ 10.96.0.12:9080 10.244.0.10:@ - default`},
		{"in the clear", call{from: "legacy", url: "http://10.244.0.13:9082/log17"}, "ratings-v1",
			`"GET /log17 HTTP/1.1" 200 - via_upstream - "-" 0 @ @ @ "-" "Go-http-client/1.1" "@" "10.244.0.13:9082" "10.244.0.13:9082" inbound|9082|| 127.0.0.6:@ 10.244.0.13:9082 10.244.0.20:@ - default`},
	}
	connections := []struct{ name, from, to, pod, line string }{
		{"TCP outbound", "", "db:9000", "productpage-v1", `"- - -" 0 - - - "-" 7 @ @ - "-" "-" "-" "-" "10.244.0.13:9000" outbound|9000||db.default.svc.cluster.local 10.244.0.10:@ 10.96.2.1:9000 10.244.0.10:@ - -`},
		{"TCP inbound", "", "db:9000", "ratings-v1", `"- - -" 0 - - - "-" 7 @ @ - "-" "-" "-" "-" "10.244.0.13:9000" inbound|9000|| 127.0.0.6:@ 10.244.0.13:9000 10.244.0.10:@ outbound_.9000_._.db.default.svc.cluster.local -`},
		{"TCP that is refused", "reviews-v1", "10.244.0.30:9999", "reviews-v1", `"- - -" 0 UH - - "-" 0 0 @ - "-" "-" "-" "-" "-" BlackHoleCluster - 10.244.0.30:9999 10.244.0.11:@ - -`},
		{"in the clear, where it is refused", "legacy", "10.244.0.13:9000", "ratings-v1", `"- - -" 0 NR filter_chain_not_found - "-" 0 0 @ - "-" "-" "-" "-" "-" - - 10.244.0.13:9000 10.244.0.20:@ - -`},
	}
	// An Envoy writes its log each ten seconds, so all is asked for first.
	for _, tc := range requests {
		if _, err := m.ask(tc.call); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	for _, tc := range connections {
		_, _ = m.talk(tc.from, tc.to) // some are refused
	}
	for _, tc := range requests {
		if slices.Contains(pods, tc.pod) {
			t.Run(tc.name, func(t *testing.T) { m.wantLogged(t, tc.pod, tc.line) })
		}
	}
	for _, tc := range connections {
		if slices.Contains(pods, tc.pod) {
			t.Run(tc.name, func(t *testing.T) { m.wantLogged(t, tc.pod, tc.line) })
		}
	}
}

// wantLogged waits until the proxy of a pod has printed a line.
func (m *mesh) wantLogged(t *testing.T, pod, line string) {
	t.Helper()
	want := logged(line)
	err := rig.Await(func() error {
		if !want.MatchString(m.proxies[pod].Log()) {
			return errors.New("it isn't there")
		}
		return nil
	})
	if err == nil {
		return
	}
	// What is nearest to it helps most.
	path := regexp.MustCompile(`/log\d+|BlackHoleCluster|filter_chain_not_found|db\.default`).FindString(line)
	var near []string
	for l := range strings.Lines(m.proxies[pod].Log()) {
		if strings.HasPrefix(l, "[") && strings.Contains(l, path) {
			near = append(near, l)
		}
	}
	t.Errorf("%s printed no line like\n%s\nbut\n%s", pod, line, strings.Join(near, ""))
}
