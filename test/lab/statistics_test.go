// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pillion/test/rig"
)

// wholePage is the pod whose proxy is asked for all of its statistics; the others
// have those of Istio's own list.
const wholePage = "productpage-v1"

// ownConfig is the ProxyConfig of a pod beside the lab's.
func ownConfig(pod string) string {
	switch pod {
	case wholePage:
		return `{"proxyStatsMatcher": {"inclusionRegexps": [".*"]}}`
	case "reviews-v1":
		// Nobody outside of the mesh is told of it.
		return `{"proxyHeaders": {"metadataExchangeHeaders": {"mode": "IN_MESH"}}}`
	}
	return "{}"
}

// onlyEnvoys are statistics of Envoy's that there are none of here: those of its
// threads, its runtime, its memory and its hot restart, its merging of updates, the
// versions of a control plane's answers, the workers of listeners, and what it has of
// Istio's agent as a cluster.
var onlyEnvoys = regexp.MustCompile(`^envoy_(server_(watchdog|compilation|debug|dropped|dynamic|envoy_|initialization|parent|seconds_until|static_unknown|stats_recent|wip|hot_restart_generation)` +
	`|cluster_manager_(cluster_updated_via_merge|update_merge|update_out|cds_(config_reload|init_fetch|version|update_duration))` +
	`|listener_manager_(workers_pinned|total_filter_chains|lds_(init_fetch|version|update_duration))|cluster_.*{.*cluster_name="xds-grpc"|cluster_xds_grpc)`)

// onlyOurs are those that there are here alone. metadata_exchange is of a filter of
// Istio's own, which this Envoy is built without.
var onlyOurs = regexp.MustCompile(`^envoy_(listener_downstream_cx_defects|listener_ssl_handshake_unfinished|cluster_ssl_handshake_unfinished|filesystem_write_dropped` +
	`|(cluster_)?http2_(connection_error|headers_after_goaway|inbound_control_frames_flood|reset_flood)|tcp_downstream_cx_active|tls_inspector_connection_closed|metadata_exchange_.*)`)

// statistics are the series of a pod's page that are named as Envoy's, each as
// NAME{LABEL="VALUE",…} with its labels in order.
func (m *mesh) statistics(t *testing.T, pod string) map[string]bool {
	t.Helper()
	page, err := rig.ParseMetrics(strings.Join(m.metrics(pod, 15090), "\n") + "\n")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, name := range page.Names() {
		if !strings.HasPrefix(name, "envoy_") {
			continue
		}
		for _, labels := range page.Series(name) {
			var list []string
			for _, l := range slices.Sorted(maps.Keys(labels)) {
				list = append(list, fmt.Sprintf("%s=%q", l, labels[l]))
			}
			all[name+"{"+strings.Join(list, ",")+"}"] = true
		}
	}
	return all
}

// testStatistics compares the names and labels of a pod's statistics with those that
// a real Envoy under Istio's own agent had in the same place after the same calls.
func testStatistics(t *testing.T, pod string, envoys, ours map[string]bool) {
	if pod == wholePage {
		testWholePage(t, envoys, ours)
		return
	}
	for _, side := range []struct {
		what     string
		has, not map[string]bool
		known    *regexp.Regexp
	}{{"Envoy alone has", envoys, ours, onlyEnvoys}, {"we alone have", ours, envoys, onlyOurs}} {
		for _, s := range slices.Sorted(maps.Keys(side.has)) {
			if !side.not[s] && !side.known.MatchString(s) {
				t.Errorf("%s %s", side.what, s)
			}
		}
	}
	for _, s := range []string{"envoy_server_state{}", "envoy_listener_manager_workers_started{}", "envoy_cluster_manager_cds_update_success{}"} {
		if !envoys[s] || !ours[s] {
			t.Errorf("%s: Envoy's %v, ours %v: the pages prove nothing", s, envoys[s], ours[s])
		}
	}
}

var labelValue = regexp.MustCompile(`="[^"]*"`)

// testWholePage: each series of ours has a name and labels that Envoy gives, too, and
// both name the same clusters.
func testWholePage(t *testing.T, envoys, ours map[string]bool) {
	forms := map[string]bool{}
	for s := range envoys {
		forms[labelValue.ReplaceAllString(s, "")] = true
	}
	reported := map[string]bool{}
	for _, s := range slices.Sorted(maps.Keys(ours)) {
		form := labelValue.ReplaceAllString(s, "")
		if !forms[form] && !onlyOurs.MatchString(form) && !reported[form] {
			reported[form] = true
			t.Errorf("Envoy has nothing of the form %s, as %s", form, s)
		}
	}
	const each = "envoy_cluster_membership_total{cluster_name="
	n := 0
	for s := range ours {
		if strings.HasPrefix(s, each) {
			n++
			if !envoys[s] {
				t.Errorf("Envoy has no %s", s)
			}
		}
	}
	if n < 10 {
		t.Errorf("there are %d clusters only", n)
	}
}
