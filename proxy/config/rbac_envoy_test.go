// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	setmetadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/test/need"
	"pillion/test/rig"
	"pillion/test/wire"
)

// setMetadata stands for the filter that verifies tokens: it publishes what
// Envoy's set_metadata filter is told to.
type setMetadata struct{ all map[string]any }

func (s setMetadata) OnRequest(ex *http.Exchange) filter.Status {
	for name, v := range s.all {
		ex.Metadata.Set(name, v)
	}
	return filter.Continue
}

// withSetMetadata makes the filter known while a test runs.
func withSetMetadata(t *testing.T) {
	const name = "envoy.extensions.filters.http.set_metadata.v3.Config"
	t.Cleanup(func() { delete(httpFilters, name) })
	httpFilters[name] = httpFilter{build: func(_ *chains, base, _ *anypb.Any) (any, error) {
		cfg := &setmetadatav3.Config{}
		if err := base.UnmarshalTo(cfg); err != nil {
			return nil, err
		}
		s := setMetadata{map[string]any{}}
		for _, m := range cfg.GetMetadata() {
			s.all[m.GetMetadataNamespace()] = m.GetValue().AsMap()
		}
		return s, nil
	}}
}

// judge is a proxy that a table of requests is sent to, with its access log.
type judge struct {
	name, addr, log string
	values          func(t *testing.T, name string) string
}

// bothJudges serves the same listener, with its clusters, by a real Envoy and by what
// we compile of it. LOG stands for the path of the access log.
func bothJudges(t *testing.T, listen string, clusters ...string) []judge {
	t.Helper()
	envoy := need.Envoy(t)
	addr, admin := rig.FreeAddr(t), rig.FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	_, adminPort, _ := net.SplitHostPort(admin)
	log := filepath.Join(t.TempDir(), "envoy.log")
	indent := func(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") }
	bootstrap := "admin: {address: {socket_address: {address: 127.0.0.1, port_value: " + adminPort + "}}}\nstatic_resources:\n  listeners:\n  - " +
		strings.ReplaceAll(indent(strings.Replace(listen, "port_value: 1}", "port_value: "+port+"}", 1)), "path: LOG", "path: "+log) + "\n  clusters:\n"
	for _, c := range clusters {
		bootstrap += "  - " + indent(c) + "\n"
	}
	json, err := yaml.YAMLToJSON([]byte(bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	p := rig.StartEnvoy(t, envoy, string(json), addr, admin)
	ours := serveTCP(t, listen, clusters...)
	return []judge{
		{"Envoy", addr, log, func(t *testing.T, name string) string {
			for line := range strings.Lines(p.Get(t, "/stats")) {
				if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+": "); ok {
					return v
				}
			}
			return "none"
		}},
		{"ours", ours.addr, ours.log, func(_ *testing.T, name string) string { return fmt.Sprint(ours.value(name)) }},
	}
}

// lines waits for the line of the last request in the access log, and returns
// all by their first word.
func (j judge) lines(t *testing.T, last string) map[string]string {
	t.Helper()
	out := map[string]string{}
	rig.Until(t, j.name+" logs all requests", func() error {
		text, err := os.ReadFile(j.log)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if key, rest, ok := strings.Cut(line, " "); ok && strings.HasSuffix(rest, "\n") {
				out[key] = rest
			}
		}
		if _, ok := out[last]; !ok {
			return fmt.Errorf("there are %d lines, without that of %s", len(out), last)
		}
		return nil
	})
	return out
}

// httpListener is a listener in YAML with the given filters and routes.
func httpListener(more, filters, routes string) string {
	return `
name: l
address: {socket_address: {address: 127.0.0.1, port_value: 1}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: in
      ` + more + `
      access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: LOG,
        log_format: {text_format_source: {inline_string: "%REQ(N)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}}}}]
      http_filters: [` + filters + `{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
      route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [` + routes + `]}]}
`
}

const rbacFilter = `{name: rbac, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC}},`

const tokenClaims = `{name: claims, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config, metadata: [
  {metadata_namespace: envoy.filters.http.jwt_authn, value: {payload: {iss: issuer, sub: "", groups: [a, b], mixed: [1, true, null, x],
    nested: {one: {two: deep}}, number: 5, half: 0.5, truth: true, lie: false, nothing: null, empty: []}}}]}},`

// TestRBACLikeEnvoy sends every request to every rule set, through a real Envoy
// and through us: status, flags and details have to be the same.
func TestRBACLikeEnvoy(t *testing.T) {
	withSetMetadata(t)
	var routes strings.Builder
	for i, rules := range rbacRules {
		fmt.Fprintf(&routes, `{match: {prefix: /, headers: [{name: t, string_match: {exact: "%d"}}]}, direct_response: {status: 200},
  typed_per_filter_config: {rbac: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute, rbac: {rules: %s}}}},
`, i, rules)
	}
	both := bothJudges(t, httpListener("", tokenClaims+rbacFilter, routes.String()))
	n := len(rbacRules) * len(rbacRequests)
	if n < 200 {
		t.Errorf("there are %d decisions, want at least 200", n)
	}
	var logs [2]map[string]string
	for k, j := range both {
		for i := range rbacRules {
			c, err := wire.Dial(j.addr, rig.Patience)
			if err != nil {
				t.Fatal(err)
			}
			for r, raw := range rbacRequests {
				line, rest, _ := strings.Cut(raw, "\r\n")
				if err := c.Send(fmt.Sprintf("%s HTTP/1.1\r\nt: %d\r\nn: %d/%d\r\n%s\r\n\r\n", line, i, i, r, rest)); err != nil {
					t.Fatal(err)
				}
				method, _, _ := strings.Cut(raw, " ")
				if _, err := c.Read(method); err != nil {
					t.Fatalf("%s: rules %s, request %q: %v", j.name, rbacRules[i], raw, err)
				}
			}
			_ = c.Close()
		}
		logs[k] = j.lines(t, fmt.Sprintf("%d/%d", len(rbacRules)-1, len(rbacRequests)-1))
		if len(logs[k]) != n {
			t.Fatalf("%s logged %d requests of %d", j.name, len(logs[k]), n)
		}
	}
	denied, differ := 0, 0
	for key, want := range logs[0] {
		if strings.HasPrefix(want, "403") {
			denied++
		}
		if got := logs[1][key]; got != want {
			i, r, _ := strings.Cut(key, "/")
			rule, _ := strconv.Atoi(i)
			req, _ := strconv.Atoi(r)
			if differ++; differ < 30 {
				t.Errorf("rules %s\nrequest %q\nEnvoy %sours  %s", rbacRules[rule], rbacRequests[req], want, got)
			}
		}
	}
	t.Logf("%d decisions, %d of them denials", n, denied)
	if denied < n/10 || denied > n*9/10 {
		t.Errorf("%d of %d are denials: the table proves little", denied, n)
	}
}
