// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
)

// service is the YAML of a service of pods with a label.
func service(name, vip, app, ports string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec: {type: ClusterIP, clusterIP: %s, clusterIPs: [%s], selector: {app: %s}, ports: [%s]}
`, name, vip, vip, app, ports)
}

// slice is the YAML of the endpoints of a service: pods of Bookinfo.
func slice(service string, ports string, pods ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s-1, namespace: default, labels: {kubernetes.io/service-name: %s}}\naddressType: IPv4\nports: [%s]\nendpoints:\n", service, service, ports)
	for _, name := range pods {
		for _, p := range BookinfoPods() {
			if p.Name == name {
				fmt.Fprintf(&b, "- {addresses: [%s], conditions: {ready: true, serving: true, terminating: false}, nodeName: node, targetRef: {kind: Pod, name: %s, namespace: %s}}\n",
					p.Addr, name, p.Namespace)
			}
		}
	}
	return b.String()
}

// httpObjects are what the tests of HTTP route by. shop is another name of
// reviews.
var httpObjects = service("shop", "10.96.1.1", "reviews", "{name: http, port: 9080, targetPort: 9080}") + "---" +
	slice("shop", "{name: http, port: 9080}", "reviews-v1", "reviews-v2") + "---" +
	service("copies", "10.96.1.2", "ratings", "{name: http, port: 9081, targetPort: 9081}") + "---" +
	slice("copies", "{name: http, port: 9081}", "ratings-v1") + `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop, namespace: default}
spec:
  host: shop
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop]
  http:
  - match: [{uri: {prefix: /user}, headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: shop, subset: v2}}]
  - match: [{uri: {regex: "/item/[0-9]+"}, queryParams: {beta: {exact: "1"}}, method: {exact: GET}}]
    route: [{destination: {host: shop, subset: v2}}]
  - match: [{uri: {prefix: /no-agent}, withoutHeaders: {x-agent: {}}}]
    route: [{destination: {host: shop, subset: v2}}]
  - match: [{uri: {exact: /Case}, ignoreUriCase: true}]
    route: [{destination: {host: shop, subset: v2}}]
  - match: [{uri: {prefix: /from}, sourceLabels: {app: productpage}}]
    route: [{destination: {host: shop, subset: v2}}]
  - match: [{uri: {prefix: /canary}}]
    route: [{destination: {host: shop, subset: v1}, weight: 99}, {destination: {host: shop, subset: v2}, weight: 1}]
  - match: [{uri: {prefix: /delay}}]
    fault: {delay: {fixedDelay: 0.3s, percentage: {value: 100}}}
    route: [{destination: {host: shop, subset: v1}}]
  - match: [{uri: {prefix: /abort}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: shop, subset: v1}}]
  - match: [{uri: {prefix: /timeout}}]
    timeout: 0.2s
    route: [{destination: {host: shop, subset: v1}}]
  - match: [{uri: {prefix: /retry}}]
    retries: {attempts: 3, retryOn: "5xx", perTryTimeout: 2s}
    route: [{destination: {host: shop, subset: v1}}]
  - match: [{uri: {prefix: /once}}]
    retries: {attempts: 0}
    route: [{destination: {host: shop, subset: v1}}]
  - match: [{uri: {prefix: /pertry}}]
    retries: {attempts: 1, retryOn: "5xx", perTryTimeout: 0.1s}
    route: [{destination: {host: shop, subset: v1}}]
  - match: [{uri: {prefix: /redirect}}]
    redirect: {uri: /elsewhere, authority: shop.example.com, redirectCode: 302}
  - match: [{uri: {prefix: /direct}}]
    directResponse: {status: 503, body: {string: "closed today"}}
    headers: {response: {set: {x-direct: "yes"}}}
  - match: [{uri: {prefix: /rewrite/}}]
    rewrite: {uri: /new/, authority: other.example.com}
    route: [{destination: {host: shop, subset: v1}}]
  - match: [{uri: {prefix: /pattern}}]
    rewrite: {uriRegexRewrite: {match: "^/pattern/([^/]+)/(.*)$", rewrite: "/\\2/of/\\1"}}
    route: [{destination: {host: shop, subset: v1}}]
  - match: [{uri: {prefix: /headers}}]
    headers:
      request: {set: {x-set: a}, add: {x-add: b}, remove: [x-remove]}
      response: {set: {x-app: hidden}, add: {x-more: c}}
    route: [{destination: {host: shop, subset: v1}, headers: {request: {set: {x-weighted: d}}}}]
  - match: [{uri: {prefix: /mirror}}]
    mirrors: [{destination: {host: copies, port: {number: 9081}}, percentage: {value: 100}}]
    route: [{destination: {host: shop, subset: v1}}]
  - match: [{uri: {prefix: /cors}}]
    corsPolicy: {allowOrigins: [{exact: "https://a.example"}], allowMethods: [GET, PUT], allowHeaders: [x-token], exposeHeaders: [x-app], maxAge: 24h, allowCredentials: true}
    route: [{destination: {host: shop, subset: v1}}]
  - route: [{destination: {host: shop, subset: v1}}]
`

// testHTTP: what a VirtualService says of requests.
func testHTTP(t *testing.T, m *mesh) {
	for _, tc := range []struct {
		name string
		call call
		code int
		app  string // which one answered; none of them if empty
		want string // what has to be in the page or in the head of the reply
	}{
		{name: "jason", call: call{url: "/user/1", header: []string{"end-user: jason"}}, code: 200, app: "reviews-v2"},
		{name: "not jason", call: call{url: "/user/1", header: []string{"end-user: jasons"}}, code: 200, app: "reviews-v1"},
		{name: "regex and query", call: call{url: "/item/77?beta=1"}, code: 200, app: "reviews-v2"},
		{name: "regex matches the whole path", call: call{url: "/item/77x?beta=1"}, code: 200, app: "reviews-v1"},
		{name: "another query", call: call{url: "/item/77?beta=11"}, code: 200, app: "reviews-v1"},
		{name: "another method", call: call{method: "POST", url: "/item/77?beta=1"}, code: 200, app: "reviews-v1"},
		{name: "without a header", call: call{url: "/no-agent"}, code: 200, app: "reviews-v2"},
		{name: "with that header", call: call{url: "/no-agent", header: []string{"x-agent: 1"}}, code: 200, app: "reviews-v1"},
		{name: "any case", call: call{url: "/cAsE"}, code: 200, app: "reviews-v2"},
		{name: "by who calls", call: call{url: "/from"}, code: 200, app: "reviews-v2"},
		{name: "by who else calls", call: call{from: "ratings-v1", url: "/from"}, code: 200, app: "reviews-v1"},
		{name: "abort", call: call{url: "/abort"}, code: 418, want: "fault filter abort"},
		{name: "timeout", call: call{url: "/timeout?delay=5s"}, code: 504, want: "upstream request timeout"},
		{name: "in time", call: call{url: "/timeout"}, code: 200, app: "reviews-v1"},
		{name: "retries", call: call{url: "/retry?until-attempt=3"}, code: 200, app: "reviews-v1", want: `"X-Envoy-Attempt-Count":["3"]`},
		{name: "retries that run out", call: call{url: "/retry?until-attempt=9"}, code: 503, app: "reviews-v1", want: `"X-Envoy-Attempt-Count":["4"]`},
		{name: "by default no answer is asked for again", call: call{url: "/?until-attempt=3"}, code: 503, app: "reviews-v1", want: `"X-Envoy-Attempt-Count":["1"]`},
		{name: "no retries", call: call{url: "/once?until-attempt=2"}, code: 503, app: "reviews-v1", want: `"X-Envoy-Attempt-Count":["1"]`},
		{name: "a try takes too long", call: call{url: "/pertry?delay=3s"}, code: 504, want: "upstream request timeout"},
		{name: "redirect", call: call{url: "/redirect/x"}, code: 302, want: "Location: http://shop.example.com/elsewhere"},
		{name: "direct response", call: call{url: "/direct"}, code: 503, want: "closed today"},
		{name: "direct response's header", call: call{url: "/direct"}, code: 503, want: "X-Direct: yes"},
		{name: "rewrite", call: call{url: "/rewrite/a?b=c"}, code: 200, app: "reviews-v1", want: `"path":"/new/a?b=c","host":"other.example.com"`},
		{name: "rewrite by pattern", call: call{url: "/pattern/a/b"}, code: 200, app: "reviews-v1", want: `"path":"/b/of/a"`},
		{name: "request headers", call: call{url: "/headers", header: []string{"x-remove: z", "x-add: y"}}, code: 200, want: `"X-Add":["y","b"]`},
		{name: "a target's headers", call: call{url: "/headers"}, code: 200, want: `"X-Weighted":["d"]`},
		{name: "response headers", call: call{url: "/headers"}, code: 200, want: "X-App: hidden"},
		{name: "CORS preflight", call: call{method: "OPTIONS", url: "/cors", header: []string{"origin: https://a.example", "access-control-request-method: PUT"}}, code: 200, want: "Access-Control-Allow-Methods: GET,PUT"},
		{name: "CORS", call: call{url: "/cors", header: []string{"origin: https://a.example"}}, code: 200, app: "reviews-v1", want: "Access-Control-Expose-Headers: x-app"},
		{name: "CORS from elsewhere", call: call{url: "/cors", header: []string{"origin: https://b.example"}}, code: 200, app: "reviews-v1"},
		{name: "over HTTP/2", call: call{url: "/user/1", header: []string{"end-user: jason"}, http2: true}, code: 200, app: "reviews-v2"},
		{name: "a service without rules", call: call{url: "http://ratings:9080/plain"}, code: 200, app: "ratings-v1"},
		{name: "by its full name", call: call{url: "http://ratings.default.svc.cluster.local:9080/plain"}, code: 200, app: "ratings-v1"},
		{name: "by its address", call: call{url: "http://10.96.0.12:9080/plain"}, code: 200, app: "ratings-v1"},
		{name: "by its name alone, at another's address", call: call{url: "http://reviews:9080/plain", host: "ratings"}, code: 200, app: "ratings-v1"},
		{name: "an application calls its own service", call: call{from: "ratings-v1", url: "http://ratings:9080/plain"}, code: 200, app: "ratings-v1", want: "URI=spiffe://cluster.local/ns/default/sa/bookinfo-ratings"},
		// Nothing says that a pod that is called by its address takes mutual TLS.
		{name: "a pod by its address", call: call{url: "http://10.244.0.13:9080/plain"}, code: 503, want: "upstream connect error"},
	} {
		if !strings.Contains(tc.call.url, "//") {
			tc.call.url = "http://shop:9080" + tc.call.url
		}
		t.Run(tc.name, func(t *testing.T) {
			r := m.try(t, tc.call, tc.code)
			var head strings.Builder
			_ = r.header.Write(&head) // into memory
			if text := r.body + head.String(); !strings.Contains(text, tc.want) {
				t.Errorf("%q isn't in\n%s", tc.want, text)
			}
			if r.page.App != tc.app && (tc.app != "" || tc.want == "") {
				t.Errorf("%q answered, not %q", r.page.App, tc.app)
			}
			for name := range r.page.Headers {
				if strings.HasPrefix(name, "X-Envoy-Peer") {
					t.Errorf("the application was told %s", name)
				}
			}
			for name := range r.header {
				if strings.HasPrefix(name, "X-Envoy-Peer") {
					t.Errorf("the client was told %s", name)
				}
			}
		})
	}
	t.Run("CORS allows nothing elsewhere", func(t *testing.T) {
		r := m.try(t, call{url: "http://shop:9080/cors", header: []string{"origin: https://b.example"}}, 200)
		for name := range r.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %q", name, r.header[name])
			}
		}
	})
	t.Run("delay", func(t *testing.T) {
		if r := m.try(t, call{url: "http://shop:9080/delay"}, 200); r.took < 280*time.Millisecond {
			t.Errorf("it took %v", r.took)
		}
	})
	t.Run("99 to 1", func(t *testing.T) { testCanary(t, m) })
	t.Run("mirror", func(t *testing.T) { testMirror(t, m) })
}

// testCanary: of 1,500 requests 15 are expected at v2, give or take 4. Fewer than 2, or
// more than 35, is a chance of less than one in a hundred thousand; of a share of 5 % it
// would be 75.
func testCanary(t *testing.T, m *mesh) {
	tr := m.transport("productpage-v1")
	tr.DisableKeepAlives = false
	defer tr.CloseIdleConnections()
	seen := map[string]int{}
	for range 1500 {
		r, err := askThrough(t.Context(), tr, call{method: "GET", url: "http://shop:9080/canary"})
		if err != nil || r.code != 200 {
			t.Fatal(err, r)
		}
		seen[r.page.App]++
	}
	if v2 := seen["reviews-v2"]; v2 < 2 || v2 > 35 || len(seen) != 2 {
		t.Errorf("%v", seen)
	}
}

// testMirror: the copy goes to the other service, and its answer to nobody.
func testMirror(t *testing.T, m *mesh) {
	r := m.try(t, call{url: "http://shop:9080/mirror/x", method: "POST", body: "to both"}, 200)
	if r.page.App != "reviews-v1" {
		t.Errorf("%q answered", r.page.App)
	}
	select {
	case got := <-m.copies:
		if got != "POST shop:9080 /mirror/x to both" {
			t.Errorf("the copy is %s", got)
		}
	case <-time.After(rig.Patience):
		t.Error("no copy came")
	}
}
