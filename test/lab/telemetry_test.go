// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pillion/test/rig"
)

// spiffe is the identity of a service account of namespace default.
func spiffe(account string) string { return "spiffe://cluster.local/ns/default/sa/" + account }

// workload are the labels of one end of a request, as source or destination.
func workload(end, name, app, version, account string) map[string]string {
	l := map[string]string{"workload": name, "workload_namespace": "default", "canonical_service": app, "canonical_revision": version, "app": app, "version": version,
		"cluster": ClusterID, "principal": spiffe(account)}
	if name == "istio-ingressgateway" {
		l["workload_namespace"], l["principal"] = "istio-system", "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"
	}
	if name == "unknown" {
		for k := range l {
			l[k] = "unknown"
		}
		l["canonical_revision"] = "latest"
	}
	named := map[string]string{}
	for k, v := range l {
		named[end+"_"+k] = v
	}
	return named
}

// to are the labels of the service that is called.
func to(name string) map[string]string {
	return map[string]string{"destination_service": name + ".default.svc.cluster.local", "destination_service_name": name, "destination_service_namespace": "default"}
}

// with joins sets of labels. Later ones replace.
func with(sets ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	return all
}

// outcome are the labels of what came of a request.
func outcome(reporter, protocol, code, grpc, flags string) map[string]string {
	policy := "unknown" // a client's side can't say, in Istio
	if reporter == "destination" {
		policy = "mutual_tls"
	}
	l := map[string]string{"reporter": reporter, "request_protocol": protocol, "response_flags": flags, "connection_security_policy": policy}
	if protocol != "tcp" {
		l["response_code"], l["grpc_response_status"] = code, grpc
	}
	return l
}

// testTelemetry: Istio's standard metrics, with all of their labels, at both
// ends of what the tests before have done and of what is done here.
func testTelemetry(t *testing.T, m *mesh) {
	page, ratings := workload("source", "productpage-v1", "productpage", "v1", "bookinfo-productpage"), workload("destination", "ratings-v1", "ratings", "v1", "bookinfo-ratings")
	v1, v2 := workload("destination", "reviews-v1", "reviews", "v1", "bookinfo-reviews"), workload("destination", "reviews-v2", "reviews", "v2", "bookinfo-reviews")
	unknown := workload("destination", "unknown", "", "", "")
	gateway := workload("source", "istio-ingressgateway", "istio-ingressgateway", "v1", "")
	m.try(t, call{url: "http://ratings:9080/"}, 200)
	m.try(t, call{url: "http://open:9082/"}, 200)
	m.try(t, call{url: "http://shop:9080/abort"}, 418)
	m.try(t, call{url: "http://shop:9080/timeout?delay=5s"}, 504)
	m.try(t, call{url: "http://reviews:9080/deny", header: []string{"end-user: tester"}}, 403)
	m.try(t, call{url: "http://10.244.0.30:9080/"}, 200)
	m.try(t, call{from: "reviews-v1", url: "http://10.244.0.30:9080/"}, 502)
	m.try(t, call{from: "legacy", url: "http://10.244.0.13:9082/"}, 200)
	m.try(t, call{url: "http://old:9080/"}, 200)
	m.try(t, call{from: "reviews-v1", url: "http://10.96.3.1/", host: "partner.example.com"}, 200)
	m.try(t, call{from: "legacy", url: "http://10.244.0.14:8080/open", host: "policy.example.com"}, 200)
	if _, err := m.talk("", "db:9000"); err != nil {
		t.Error(err)
	}
	testGRPC(t, m)

	// Where no connection was chosen, there is no certificate that it would
	// have shown.
	blank := map[string]string{"source_principal": "unknown"}
	outside := map[string]string{"destination_service": "unknown", "destination_service_name": "PassthroughCluster", "destination_service_namespace": "unknown"}
	clear := with(workload("source", "unknown", "", "", ""), map[string]string{"connection_security_policy": "none", "destination_principal": "unknown"})
	tcp := []string{"istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total", "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"}
	http := []string{"istio_requests_total", "istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"}
	for _, tc := range []struct {
		name, pod string
		families  []string
		labels    map[string]string
	}{
		{"HTTP, source", "productpage-v1", http, with(page, ratings, to("ratings"), outcome("source", "http", "200", "", "-"))},
		{"HTTP, destination", "ratings-v1", http, with(page, ratings, to("open"), outcome("destination", "http", "200", "", "-"))},
		{"gRPC, source", "productpage-v1", http, with(page, ratings, to("echo"), outcome("source", "grpc", "200", "0", "-"))},
		{"gRPC, destination", "ratings-v1", http, with(page, ratings, to("echo"), outcome("destination", "grpc", "200", "0", "-"))},
		{"gRPC that fails", "ratings-v1", http, with(page, ratings, to("echo"), outcome("destination", "grpc", "200", "5", "-"))},
		{"TCP, source", "productpage-v1", tcp, with(page, ratings, to("db"), outcome("source", "tcp", "", "", "-"))},
		{"TCP, destination", "ratings-v1", tcp, with(page, ratings, to("db"), outcome("destination", "tcp", "", "", "-"))},
		{"an abort", "productpage-v1", http, with(page, unknown, to("shop"), outcome("source", "http", "418", "", "FI"), blank)},
		{"a timeout", "productpage-v1", http, with(page, v1, to("shop"), outcome("source", "http", "504", "", "UT"))},
		{"denied, source", "productpage-v1", http, with(page, v2, to("reviews"), outcome("source", "http", "403", "", "-"))},
		{"denied, destination", "reviews-v2", http, with(page, v2, to("reviews"), outcome("destination", "http", "403", "", "-"))},
		{"passed through", "productpage-v1", http, with(page, unknown, outside, outcome("source", "http", "200", "", "-"), blank)},
		{"in the clear", "ratings-v1", http, with(ratings, outcome("destination", "http", "200", "", "-"), clear)},
		{"the gateway, source", "istio-ingressgateway", http, with(gateway, ratings, to("open"), outcome("source", "http", "200", "", "-"))},
		{"the gateway, destination", "ratings-v1", http, with(gateway, ratings, to("open"), outcome("destination", "http", "200", "", "-"))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, family := range tc.families {
				if err := rig.Await(func() error { return m.counted(tc.pod, family, tc.labels) }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	t.Run("merged", func(t *testing.T) {
		for _, want := range []string{"istio_agent_scrapes_total", `istio_agent_cert_expiry_seconds{resource_name="default"}`, "istio_agent_xds_proxy_responses",
			`istio_agent_num_outgoing_requests{request_type="csr"}`, `istio_agent_istiod_connection_terminations{type="error"}`, "istio_requests_total", "envoy_server_live", `istio_build{component="proxy"`} {
			if len(m.metrics("ratings-v1", 15020, want)) == 0 {
				t.Errorf("the page of port 15020 lacks %s", want)
			}
		}
	})
}

// counted looks for a series that has the labels and counts something.
func (m *mesh) counted(pod, family string, labels map[string]string) error {
	all, err := rig.ParseMetrics(strings.Join(m.metrics(pod, 15090), "\n") + "\n")
	if err != nil {
		return err
	}
	var want []string
	for k, v := range labels {
		want = append(want, k+"="+v)
	}
	if all.Sum(family, want...) > 0 {
		return nil
	}
	// What is nearest helps most.
	best, least := "", len(labels)+1
	for _, series := range all.Series(family) {
		var wrong []string
		for k, v := range labels {
			if got, there := series[k]; got != v {
				wrong = append(wrong, fmt.Sprintf("%s=%q (%v), not %q", k, got, there, v))
			}
		}
		if len(wrong) < least {
			slices.Sort(wrong)
			best, least = strings.Join(wrong, ", "), len(wrong)
		}
	}
	return fmt.Errorf("the nearest series of %s at %s has %s", family, pod, best)
}
