// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	nethttp "net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// client is one that speaks to a server as client-go does.
type client struct {
	*Server
	t   *testing.T
	url string
}

func start(t *testing.T) *client {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return &client{s, t, web.URL}
}

func (c *client) send(ctx context.Context, method, path, body string, headers ...string) *nethttp.Response {
	c.t.Helper()
	req, err := nethttp.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := nethttp.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

// ask sends a request and returns the answer, whose status has to be code.
func (c *client) ask(code int, method, path, body string, headers ...string) Object {
	c.t.Helper()
	resp := c.send(c.t.Context(), method, path, body, headers...)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var obj Object
	if err := json.Unmarshal(text, &obj); err != nil || resp.StatusCode != code {
		c.t.Fatalf("%s %s: %s, not %d: %s", method, path, resp.Status, code, text)
	}
	if code >= 400 && (obj["kind"] != "Status" || obj["code"] != float64(code) || obj["message"] == "") {
		c.t.Errorf("%s %s: the failure is no Status: %s", method, path, text)
	}
	return obj
}

func (c *client) apply(text string) {
	c.t.Helper()
	if err := c.Apply(text); err != nil {
		c.t.Fatal(err)
	}
}

func names(list Object) string {
	var all []string
	for _, item := range list["items"].([]any) {
		all = append(all, str(item.(Object), "metadata", "name"))
	}
	return strings.Join(all, " ")
}

func pod(name, labels, phase string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, labels: {%s}}\nspec: {nodeName: n1}\nstatus: {phase: %s}\n", name, labels, phase)
}

func TestDiscovery(t *testing.T) {
	c := start(t)
	groups := c.ask(200, "GET", "/apis", "")["groups"].([]any)
	var found []string
	for _, g := range groups {
		found = append(found, str(g.(Object), "name")+"="+str(g.(Object), "preferredVersion", "groupVersion"))
	}
	for _, want := range []string{"networking.istio.io=networking.istio.io/v1", "gateway.networking.k8s.io=gateway.networking.k8s.io/v1", "apps=apps/v1"} {
		if !slices.Contains(found, want) {
			t.Errorf("%s is missing in %v", want, found)
		}
	}
	for path, want := range map[string]string{"/api/v1": "pods", "/apis/networking.istio.io/v1": "virtualservices", "/apis/networking.istio.io/v1alpha3": "envoyfilters"} {
		list := c.ask(200, "GET", path, "")["resources"].([]any)
		if !slices.ContainsFunc(list, func(r any) bool { return r.(Object)["name"] == want && r.(Object)["namespaced"] == true }) {
			t.Errorf("%s: no %s", path, want)
		}
	}
	for _, path := range []string{"/apis/networking.istio.io/v7", "/apis/nobody.example", "/apis/nobody.example/v1/things", "/api/v1/things", "/api/v1/namespaces/shop/nodes", "/api/v1/pods/x", "/x", "/api"} {
		if path != "/api" {
			c.ask(404, "GET", path, "")
		}
	}
	if v := c.ask(200, "GET", "/version", ""); v["major"] != "1" {
		t.Errorf("%v", v)
	}
	crd := c.ask(200, "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/httproutes.gateway.networking.k8s.io", "")
	if got := crd["metadata"].(Object)["annotations"].(Object)["gateway.networking.k8s.io/bundle-version"]; got != gatewayBundle {
		t.Errorf("the bundle's version is %v", got)
	}
}

func TestObjects(t *testing.T) {
	c := start(t)
	const all = "/api/v1/namespaces/shop/configmaps"
	const one = all + "/a"
	c.ask(404, "POST", all, `{"metadata":{"name":"a"}}`) // no such namespace
	c.ask(201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"shop"}}`)
	made := c.ask(201, "POST", all, `{"metadata":{"name":"a","resourceVersion":"7"},"data":{"k":"v"}}`)
	if made["kind"] != "ConfigMap" || made["apiVersion"] != "v1" || str(made, "metadata", "namespace") != "shop" || str(made, "metadata", "uid") == "" || str(made, "metadata", "generation") != "1" {
		t.Errorf("%v", made)
	}
	c.ask(409, "POST", all, `{"metadata":{"name":"a"}}`)
	c.ask(422, "POST", all, `{"metadata":{}}`)
	c.ask(422, "POST", all, `{}`)
	c.ask(400, "POST", all, `{"metadata":{"name":"b","namespace":"other"}}`)
	c.ask(400, "POST", all, `[`)
	c.ask(400, "POST", all, `null`)
	if got := c.ask(201, "POST", all, `{"metadata":{"generateName":"g-"}}`); len(str(got, "metadata", "name")) != 7 {
		t.Errorf("%v", got)
	}

	rev := str(made, "metadata", "resourceVersion")
	same := c.ask(200, "PUT", one, `{"metadata":{"name":"a","resourceVersion":"`+rev+`"},"kind":"ConfigMap","apiVersion":"v1","data":{"k":"w"}}`)
	if str(same, "data", "k") != "w" || str(same, "metadata", "generation") != "2" || str(same, "metadata", "uid") != str(made, "metadata", "uid") {
		t.Errorf("%v", same)
	}
	c.ask(409, "PUT", one, `{"metadata":{"name":"a","resourceVersion":"`+rev+`"},"data":{"k":"x"}}`)
	c.ask(400, "PUT", one, `{"metadata":{"name":"b"}}`)
	c.ask(404, "PUT", all+"/zz", `{"metadata":{"name":"zz"}}`)
	c.ask(404, "PUT", one+"/scale", `{"metadata":{"name":"a"}}`)
	again := c.ask(200, "PUT", one, `{"metadata":{"name":"a"},"kind":"ConfigMap","apiVersion":"v1","data":{"k":"w"}}`)
	if str(again, "metadata", "resourceVersion") != str(same, "metadata", "resourceVersion") {
		t.Error("an update that changes nothing has a revision")
	}

	merged := c.ask(200, "PATCH", one, `{"data":{"k":null,"l":"1"}}`, "Content-Type", "application/merge-patch+json")
	if !reflect.DeepEqual(merged["data"], Object{"l": "1"}) {
		t.Errorf("%v", merged)
	}
	c.ask(415, "PATCH", one, `[]`, "Content-Type", "application/json-patch+json")
	c.ask(404, "PATCH", all+"/new", `{}`, "Content-Type", "application/merge-patch+json")
	applied := c.ask(200, "PATCH", all+"/new", "data: {l: z}", "Content-Type", "application/apply-patch+yaml")
	if str(applied, "data", "l") != "z" || str(applied, "metadata", "name") != "new" {
		t.Errorf("%v", applied)
	}
	c.ask(200, "DELETE", one, "")
	c.ask(404, "GET", one, "")
	c.ask(404, "DELETE", one, "")
	c.ask(200, "DELETE", all, "")
	if got := names(c.ask(200, "GET", all, "")); got != "" {
		t.Errorf("left: %s", got)
	}
	c.ask(405, "OPTIONS", one, "")
}

// TestStatus: a status is changed through its own path, and by no other.
func TestStatus(t *testing.T) {
	c := start(t)
	c.apply("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: shop}\nspec: {a: 1}\n")
	const one = "/apis/networking.istio.io/v1/namespaces/shop/gateways/g"
	c.ask(200, "PUT", one+"/status", `{"metadata":{"name":"g"},"spec":{"a":2},"status":{"s":"x"}}`)
	got := c.ask(200, "PUT", one, `{"metadata":{"name":"g"},"spec":{"a":3},"status":{"s":"y"}}`)
	if str(got, "spec", "a") != "3" || str(got, "status", "s") != "x" || str(got, "metadata", "generation") != "2" {
		t.Errorf("%v", got)
	}
	got = c.ask(200, "PATCH", one+"/status", `{"status":{"t":1}}`, "Content-Type", "application/merge-patch+json")
	if str(got, "status", "s") != "x" || str(got, "status", "t") != "1" || str(got, "metadata", "generation") != "2" {
		t.Errorf("%v", got)
	}
	other := c.ask(200, "GET", "/apis/networking.istio.io/v1beta1/namespaces/shop/gateways/g", "")
	if other["apiVersion"] != "networking.istio.io/v1beta1" || str(other, "spec", "a") != "3" {
		t.Errorf("in another version: %v", other)
	}
	// The two kinds of gateways have nothing to do with each other.
	c.ask(404, "GET", "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/g", "")
}

func TestListing(t *testing.T) {
	c := start(t)
	c.apply(pod("a", "app: web, v: '1'", "Running") + "---\n" + pod("b", "app: web, v: '2'", "Failed") + "---\n" + pod("c", "app: db", "Running"))
	const all = "/api/v1/namespaces/shop/pods"
	for _, tc := range []struct{ kind, selector, want string }{
		{"labelSelector", "app=web", "a b"},
		{"labelSelector", "app==web,v=2", "b"},
		{"labelSelector", "app!=web", "c"},
		{"labelSelector", "v", "a b"},
		{"labelSelector", "!v", "c"},
		{"labelSelector", "v in (1, 3),app", "a"},
		{"labelSelector", "v notin (1,3)", "b c"},
		{"labelSelector", "", "a b c"},
		{"fieldSelector", "status.phase!=Failed", "a c"},
		{"fieldSelector", "metadata.name=b", "b"},
		{"fieldSelector", "spec.nodeName=n1,status.phase=Failed", "b"},
		{"fieldSelector", "metadata.namespace=other", ""},
		{"fieldSelector", "type!=x", "a b c"},
	} {
		if got := names(c.ask(200, "GET", all+"?"+tc.kind+"="+url.QueryEscape(tc.selector), "")); got != tc.want {
			t.Errorf("%s %s: %q, not %q", tc.kind, tc.selector, got, tc.want)
		}
	}
	for _, bad := range []string{"labelSelector=v+in+1", "labelSelector=v+of+(1)", "labelSelector==1", "fieldSelector=x", "labelSelector=(1)", "labelSelector=!"} {
		c.ask(400, "GET", all+"?"+bad, "")
	}
	meta := c.ask(200, "GET", "/api/v1/pods", "", "Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json")
	first := meta["items"].([]any)[0].(Object)
	if meta["kind"] != "PartialObjectMetadataList" || meta["apiVersion"] != "meta.k8s.io/v1" || first["kind"] != "PartialObjectMetadata" || first["spec"] != nil || str(first, "metadata", "labels", "app") != "web" {
		t.Errorf("%v", meta)
	}
	one := c.ask(200, "GET", all+"/a", "", "Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	if one["kind"] != "PartialObjectMetadata" || one["status"] != nil {
		t.Errorf("%v", one)
	}
}

// watch opens a watch and returns a function that reads its next event.
func (c *client) watch(path string, headers ...string) func() (kind, name string, obj Object) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	resp := c.send(ctx, "GET", path, "", headers...)
	c.t.Cleanup(func() { cancel(); resp.Body.Close() })
	if resp.StatusCode != 200 {
		c.t.Fatalf("%s: %s", path, resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	return func() (string, string, Object) {
		if !lines.Scan() {
			return "", "", nil
		}
		var e struct {
			Type   string
			Object Object
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			c.t.Fatal(err)
		}
		return e.Type, str(e.Object, "metadata", "name"), e.Object
	}
}

func TestWatch(t *testing.T) {
	c := start(t)
	c.apply(pod("a", "app: web", "Running") + "---\n" + pod("x", "app: db", "Running"))
	rev := str(c.ask(200, "GET", "/api/v1/pods", ""), "metadata", "resourceVersion")
	const web = "&labelSelector=app%3Dweb"
	streams := map[string]func() (string, string, Object){
		"list": c.watch("/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true" + web),
		"now":  c.watch("/api/v1/namespaces/shop/pods?watch=1" + web),
		"rev":  c.watch("/api/v1/pods?watch=true&resourceVersion=" + rev + web),
		"meta": c.watch("/api/v1/pods?watch=true&resourceVersion="+rev+web, "Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
	}
	expect := func(stream, want string) Object {
		t.Helper()
		kind, name, obj := streams[stream]()
		if got := strings.TrimSpace(kind + " " + name); got != want {
			t.Fatalf("%s: %q, not %q: %v", stream, got, want, obj)
		}
		return obj
	}
	expect("list", "ADDED a")
	mark := expect("list", "BOOKMARK")
	if mark["kind"] != "Pod" || mark["metadata"].(Object)["annotations"].(Object)["k8s.io/initial-events-end"] != "true" || str(mark, "metadata", "resourceVersion") != rev {
		t.Errorf("%v", mark)
	}
	expect("now", "ADDED a")
	c.apply(pod("b", "app: web", "Running"))
	c.apply(pod("b", "app: web", "Running")) // nothing changes, so that there is no event
	c.apply(pod("b", "app: web", "Failed"))
	c.apply(pod("b", "app: other", "Failed")) // leaves the selection
	c.apply(pod("x", "app: web", "Running"))  // enters it
	if err := c.Delete(pod("a", "", "")); err != nil {
		t.Fatal(err)
	}
	for stream := range streams {
		last := 0
		for _, want := range []string{"ADDED b", "MODIFIED b", "DELETED b", "ADDED x", "DELETED a"} {
			obj := expect(stream, want)
			rev, err := strconv.Atoi(str(obj, "metadata", "resourceVersion"))
			if err != nil || rev <= last {
				t.Errorf("%s: %s has revision %d after %d", stream, want, rev, last)
			}
			last = rev
			if stream == "meta" && (obj["kind"] != "PartialObjectMetadata" || obj["status"] != nil) {
				t.Errorf("%v", obj)
			}
		}
	}
	c.ask(400, "GET", "/api/v1/pods?watch=true&resourceVersion=x", "")
	if kind, _, _ := c.watch("/api/v1/pods?watch=true&timeoutSeconds=1&resourceVersion=" + rev + "&labelSelector=none")(); kind != "" {
		t.Errorf("an event %s where there is none", kind)
	}
}

// TestOldWatch: a watch from before what is remembered has to list anew.
func TestOldWatch(t *testing.T) {
	c := start(t)
	c.store.keep = 8
	c.apply(pod("a", "", "Running"))
	for i := range 3 * c.store.keep {
		c.apply(pod("a", "", "p"+strconv.Itoa(i)))
	}
	if got := c.ask(410, "GET", "/api/v1/pods?watch=true&resourceVersion=5", ""); got["reason"] != "Expired" {
		t.Errorf("%v", got)
	}
}

func TestNamespaceTakesItsObjects(t *testing.T) {
	c := start(t)
	c.apply(pod("a", "", "Running"))
	c.ask(200, "DELETE", "/api/v1/namespaces/shop", "")
	c.ask(404, "GET", "/api/v1/namespaces/shop/pods/a", "")
}

func TestApply(t *testing.T) {
	c := start(t)
	c.apply("---\n# nothing\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: v}\n---\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: n}}\n")
	got, err := c.Get("v1", "Secret", "default", "s")
	if err != nil || str(got, "data", "k") != "dg==" || got["stringData"] != nil {
		t.Errorf("%v %v", got, err)
	}
	c.ask(200, "GET", "/api/v1/namespaces/n", "")
	c.apply(pod("a", "", "Running"))
	c.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n")
	if got, _ := c.Get("v1", "Pod", "shop", "a"); str(got, "status", "phase") != "Running" || got["spec"] != nil {
		t.Errorf("%v", got)
	}
	for text, want := range map[string]string{
		"a: [":                      "document 1",
		"- a":                       "no JSON object",
		"kind: Pod\napiVersion: v2": `no kind "Pod" in "v2"`,
		"kind: Pod\napiVersion: v1": "Pod: the object has no metadata",
		"kind: Pod\napiVersion: v1\nmetadata: {}": "Pod: metadata.name is missing",
	} {
		if err := c.Apply(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := c.Get("v1", "Toy", "", ""); err == nil {
		t.Error("a kind that there isn't")
	}
}

// TestReplace: what a file no longer has goes, but only if the rest is good.
func TestReplace(t *testing.T) {
	c := start(t)
	a, b := pod("a", "", "Running"), pod("b", "", "Running")
	for _, step := range []struct{ old, now, want string }{
		{"", a + "---\n" + b, "a b"},
		{a + "---\n" + b, "a: [", "a b"},
		{a + "---\n" + b, b, "b"},
		{b, "", ""},
	} {
		if err := c.Replace(step.old, step.now); (err != nil) != (step.now == "a: [") {
			t.Errorf("%q: %v", step.now, err)
		}
		if got := names(c.ask(200, "GET", "/api/v1/pods", "")); got != step.want {
			t.Errorf("%q, not %q", got, step.want)
		}
	}
}

const account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web, namespace: shop}\n"

// review asks for a token's owner: "" if it has none.
func (c *client) review(token string, audiences ...string) (user, why string) {
	c.t.Helper()
	body, err := json.Marshal(Object{"spec": Object{"token": token, "audiences": audiences}})
	if err != nil {
		c.t.Fatal(err)
	}
	got := c.ask(201, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", string(body))
	if got["status"].(Object)["authenticated"] != true {
		return "", str(got, "status", "error")
	}
	return str(got, "status", "user", "username"), ""
}

func TestTokens(t *testing.T) {
	c, other := start(t), start(t)
	token := func(c *client, o TokenOptions) string {
		t.Helper()
		text, err := c.Token("shop", "web", o)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if _, err := c.Token("shop", "web", TokenOptions{}); !IsNotFound(err) {
		t.Errorf("a token of nobody: %v", err)
	}
	c.apply(account + "---\n" + pod("a", "", "Running"))
	other.apply(account)
	ca := TokenOptions{Audiences: []string{"istio-ca"}, Pod: "a"}
	for _, tc := range []struct{ name, token, audience, want string }{
		{"ours", token(c, ca), "istio-ca", ""},
		{"for the API", token(c, TokenOptions{}), "", ""},
		{"for another", token(c, TokenOptions{}), "istio-ca", "is invalid for the target audiences"},
		{"expired", token(c, TokenOptions{Audiences: []string{"istio-ca"}, TTL: -time.Second}), "istio-ca", "expired"},
		{"of another issuer", token(other, TokenOptions{Audiences: []string{"istio-ca"}}), "istio-ca", "invalid bearer token"},
		{"no token", "x.y.z", "istio-ca", "invalid bearer token"},
		{"none", "", "istio-ca", "invalid bearer token"},
	} {
		var audiences []string
		if tc.audience != "" {
			audiences = []string{tc.audience, "another"}
		}
		user, why := c.review(tc.token, audiences...)
		if tc.want == "" && user != "system:serviceaccount:shop:web" || tc.want != "" && !strings.Contains(why, tc.want) {
			t.Errorf("%s: %q %q", tc.name, user, why)
		}
	}
	bound := token(c, ca)
	if err := c.Delete(pod("a", "", "")); err != nil {
		t.Fatal(err)
	}
	if _, why := c.review(bound, "istio-ca"); !strings.Contains(why, "Pod shop/a has been deleted") {
		t.Errorf("bound to a pod that has ended: %q", why)
	}
	unbound := token(c, TokenOptions{Audiences: []string{"istio-ca"}})
	if err := c.Delete(account); err != nil {
		t.Fatal(err)
	}
	c.apply(account) // one of the same name is another one
	if _, why := c.review(unbound, "istio-ca"); !strings.Contains(why, "has been deleted") {
		t.Errorf("of an account that was deleted: %q", why)
	}
}

func TestTokenRequest(t *testing.T) {
	c := start(t)
	const path = "/api/v1/namespaces/shop/serviceaccounts/web/token"
	c.ask(404, "POST", path, `{"spec":{}}`)
	c.apply(account)
	got := c.ask(201, "POST", path, `{"kind":"TokenRequest","spec":{"audiences":["istio-ca"],"expirationSeconds":600}}`)
	if user, why := c.review(str(got, "status", "token"), "istio-ca"); user == "" {
		t.Error(why)
	}
	if at, err := time.Parse(time.RFC3339, str(got, "status", "expirationTimestamp")); err != nil || time.Until(at) > 10*time.Minute {
		t.Errorf("%v %v", at, err)
	}
	if got := c.ask(201, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"x"}}`); got["status"].(Object)["allowed"] != true {
		t.Errorf("%v", got)
	}
}

// TestKeys: what /openid/v1/jwks says is the key that tokens are signed by.
func TestKeys(t *testing.T) {
	c := start(t)
	keys := c.ask(200, "GET", "/openid/v1/jwks", "")["keys"].([]any)
	if len(keys) != 1 || str(keys[0].(Object), "kty") != "RSA" || str(keys[0].(Object), "kid") != keyID || keys[0].(Object)["d"] != nil {
		t.Errorf("%v", keys)
	}
	if at := c.ask(200, "GET", "/.well-known/openid-configuration", ""); !strings.HasSuffix(at["jwks_uri"].(string), "/openid/v1/jwks") || at["issuer"] != Issuer {
		t.Errorf("%v", at)
	}
}
