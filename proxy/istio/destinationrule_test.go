// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
)

// ruleYAML is a DestinationRule whose limit of connections tells it from others.
func ruleYAML(namespace, name, host, more string, limit int) string {
	return fmt.Sprintf(`
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %s, namespace: %s}
spec:
  host: "%s"
  trafficPolicy: {connectionPool: {tcp: {maxConnections: %d}}}
%s
`, name, namespace, host, limit, more)
}

func limitOf(c *clusterv3.Cluster) uint32 {
	n := c.CircuitBreakers.Thresholds[0].MaxConnections.GetValue()
	if n == 1<<32-1 {
		return 0
	}
	return n
}

// TestRuleInForce: which DestinationRule a proxy of namespace client uses for a
// service of namespace server.
func TestRuleInForce(t *testing.T) {
	const host = "a.server.svc.cluster.local"
	service := serviceYAML("server", host, port80)
	for _, c := range []struct {
		name   string
		rules  string
		labels map[string]string
		want   uint32
	}{
		{"none", "", nil, 0},
		{"service's namespace", ruleYAML("server", "r", "a", "", 1), nil, 1},
		{"root namespace", ruleYAML("istio-system", "r", host, "", 1), nil, 1},
		{"third namespace", ruleYAML("third", "r", host, "", 1), nil, 0},
		{"client before service", ruleYAML("server", "r", "a", "", 1) + ruleYAML("client", "r", host, "", 2), nil, 2},
		{"service before root", ruleYAML("istio-system", "r", host, "", 1) + ruleYAML("server", "r", "a", "", 2), nil, 2},
		{"name before wildcard", ruleYAML("client", "w", "*.svc.cluster.local", "", 1) + ruleYAML("client", "r", host, "", 2), nil, 2},
		{"longer wildcard", ruleYAML("client", "w", "*.local", "", 1) + ruleYAML("client", "r", "*.server.svc.cluster.local", "", 2), nil, 2},
		{"client's wildcard before the service's name", ruleYAML("server", "r", "a", "", 1) + ruleYAML("client", "w", "*.local", "", 2), nil, 2},
		{"not exported", ruleYAML("server", "r", "a", "  exportTo: [\".\"]", 1), nil, 0},
		{"exported to others", ruleYAML("server", "r", "a", "  exportTo: [third]", 1), nil, 0},
		{"exported to us", ruleYAML("server", "r", "a", "  exportTo: [third, client]", 1), nil, 1},
		{"own but exported away", ruleYAML("client", "r", host, "  exportTo: [third]", 1) + ruleYAML("server", "r", "a", "", 2), nil, 2},
		{"first of two", ruleYAML("client", "r", host, "", 1) + ruleYAML("client", "s", host, "", 2), nil, 1},
		{"selector", ruleYAML("client", "r", host, "", 1) + ruleYAML("client", "s", host, "  workloadSelector: {matchLabels: {app: x}}", 2),
			map[string]string{"app": "x", "version": "v1"}, 2},
		{"selector of others", ruleYAML("client", "r", host, "", 1) + ruleYAML("client", "s", host, "  workloadSelector: {matchLabels: {app: x}}", 2),
			map[string]string{"app": "z"}, 1},
		{"selector in another namespace", ruleYAML("server", "s", "a", "  workloadSelector: {matchLabels: {app: x}}", 2),
			map[string]string{"app": "x"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := translate(t, service+c.rules, Options{Namespace: "client", Labels: c.labels})
			if got := limitOf(r.clusterOf("outbound|80||" + host)); got != c.want {
				t.Errorf("limit %d, want %d", got, c.want)
			}
		})
	}
}

// TestRuleOfRootNamespace: what the root namespace exports is for everyone, so its own
// proxies look at the service's namespace first, but not where it keeps a rule private.
func TestRuleOfRootNamespace(t *testing.T) {
	const host = "a.server.svc.cluster.local"
	for more, want := range map[string]uint32{"": 2, "  exportTo: [\".\"]": 1} {
		r, _ := translate(t, serviceYAML("server", host, port80)+
			ruleYAML("istio-system", "r", "*.local", more, 1)+ruleYAML("server", "r", "a", "", 2), Options{Namespace: "istio-system"})
		if got := limitOf(r.clusterOf("outbound|80||" + host)); got != want {
			t.Errorf("exportTo %q: limit %d, want %d", more, got, want)
		}
	}
}

// TestRulesMerge: a second rule for a host adds subsets, and a policy where there is none.
func TestRulesMerge(t *testing.T) {
	const host = "a.default.svc.cluster.local"
	first := `
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: first, namespace: default}
spec: {host: a, subsets: [{name: v1, labels: {version: v1}}, {name: both, labels: {version: v1}}]}
`
	second := ruleYAML("default", "second", "a", "  subsets: [{name: v2, labels: {version: v2}}, {name: both, labels: {version: v2}}]", 7)
	exported := ruleYAML("default", "third", "a", "  exportTo: [other]\n  subsets: [{name: v3, labels: {version: v1}}]", 8)
	r, problems := translate(t, serviceYAML("default", host, port80)+first+second+exported, Options{})
	for _, subset := range []string{"", "v1", "v2", "both"} {
		c := r.clusterOf("outbound|80|" + subset + "|" + host)
		if c == nil {
			t.Fatalf("no subset %q", subset)
		}
		if got := limitOf(c); got != 7 {
			t.Errorf("subset %q has limit %d", subset, got)
		}
		config := c.Metadata.FilterMetadata["istio"].Fields["config"].GetStringValue()
		if config != "/apis/networking.istio.io/v1/namespaces/default/destination-rule/first" {
			t.Errorf("subset %q is of %s", subset, config)
		}
	}
	if r.clusterOf("outbound|80|v3|"+host) != nil {
		t.Error("a rule that isn't for this namespace was merged")
	}
	if got := r.addressesOf("outbound|80|both|" + host); len(got) != 1 {
		t.Errorf("the first subset of a name doesn't count: %v", got)
	}
	// The only endpoint is of version v1.
	wantProblem(t, problems, true, "DestinationRule/default/second", "spec.subsets[0].labels", "no endpoint")
}

// TestUnsupportedPolicy: settings that have no effect are named.
func TestUnsupportedPolicy(t *testing.T) {
	yaml := serviceYAML("default", "a.default.svc.cluster.local", port80) + `
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: default}
spec:
  host: a
  trafficPolicy:
    outlierDetection: {outlierDetectionHttpErrorCodes: [429], consecutiveErrors: 3}
    loadBalancer: {localityLbSetting: {failoverPriority: [topology.istio.io/network]}}
`
	_, problems := translate(t, yaml, Options{})
	for _, field := range []string{
		"spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes",
		"spec.trafficPolicy.outlierDetection.consecutiveErrors", "spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority",
	} {
		wantProblem(t, problems, true, field+":")
	}
}

// TestPanicThreshold: with one Envoy may use unhealthy hosts, so it isn't told of
// endpoints that aren't ready.
func TestPanicThreshold(t *testing.T) {
	const host = "a.default.svc.cluster.local"
	yaml := `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: default}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-1, namespace: default, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.2], conditions: {ready: true}}
- {addresses: [10.0.0.3], conditions: {ready: false, terminating: false}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: default}
spec:
  host: a
  subsets:
  - {name: calm}
  - {name: panics, trafficPolicy: {outlierDetection: {minHealthPercent: 30}}}
`
	r, _ := translate(t, yaml, Options{})
	for subset, want := range map[string][]string{
		"calm": {"10.0.0.2:8080", "10.0.0.3:8080"}, "panics": {"10.0.0.2:8080"},
	} {
		if got := r.addressesOf("outbound|80|" + subset + "|" + host); !slices.Equal(got, want) {
			t.Errorf("subset %s: %v, want %v", subset, got, want)
		}
	}
	if got := r.clusterOf("outbound|80|calm|" + host).CommonLbConfig.HealthyPanicThreshold.Value; got != 0 {
		t.Errorf("threshold %v without anyone asking", got)
	}
}
