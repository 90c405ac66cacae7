// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/proxy/cluster"
	"pillion/proxy/outlier"
)

// number is the value of an optional field, def if it isn't set.
func number(v *wrapperspb.UInt32Value, def uint32) uint32 {
	if v == nil {
		return def
	}
	return v.GetValue()
}

// percent is number for a percentage.
func percent(field string, v *wrapperspb.UInt32Value, def uint8) (uint8, error) {
	n := number(v, uint32(def))
	if n > 100 {
		return 0, fmt.Errorf("%s: %d is more than 100 %%", field, n)
	}
	return uint8(n), nil
}

var breakerFields = fieldSet("thresholds")

// limits compiles circuit_breakers. Envoy's defaults hold for what isn't set.
func (b *clusterBuilder) limits() error {
	b.out.Breakers = cluster.Breakers{MaxRequests: 1024, MaxRetries: 3}
	cb := b.in.GetCircuitBreakers()
	if cb == nil {
		return nil
	}
	if err := onlyFields(cb, breakerFields); err != nil {
		return at("circuit_breakers", err)
	}
	for i, t := range cb.GetThresholds() {
		path := fmt.Sprintf("circuit_breakers.thresholds[%d]", i)
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT {
			b.warn("%s: routes have no priority %s, so that it is never used", path, t.GetPriority())
			continue
		}
		out, conn := &b.out.Breakers, &b.out.Conn
		conn.MaxConnections = number(t.GetMaxConnections(), conn.MaxConnections)
		conn.MaxPending = number(t.GetMaxPendingRequests(), conn.MaxPending)
		out.MaxRequests = number(t.GetMaxRequests(), out.MaxRequests)
		out.MaxRetries = number(t.GetMaxRetries(), out.MaxRetries)
		out.TrackRemaining = t.GetTrackRemaining()
		if r := t.GetRetryBudget(); r != nil {
			out.RetryBudget = &cluster.RetryBudget{Percent: 20, MinConcurrency: number(r.GetMinRetryConcurrency(), 3)}
			if p := r.GetBudgetPercent(); p != nil {
				out.RetryBudget.Percent = p.GetValue()
			}
		}
		if t.GetMaxConnectionPools() != nil {
			b.warn("%s.max_connection_pools: each host has one pool", path)
		}
	}
	return nil
}

// outlierFields are all but those whose checks aren't made; see outlier.
var outlierFields = fieldSet("consecutive_5xx", "interval", "base_ejection_time", "max_ejection_percent",
	"enforcing_consecutive_5xx", "consecutive_gateway_failure", "enforcing_consecutive_gateway_failure",
	"split_external_local_origin_errors", "consecutive_local_origin_failure", "enforcing_consecutive_local_origin_failure",
	"max_ejection_time", "max_ejection_time_jitter", "always_eject_one_host",
	"enforcing_success_rate", "success_rate_minimum_hosts", "success_rate_request_volume", "success_rate_stdev_factor",
	"enforcing_local_origin_success_rate", "failure_percentage_threshold", "enforcing_failure_percentage",
	"enforcing_failure_percentage_local_origin", "failure_percentage_minimum_hosts", "failure_percentage_request_volume",
	"successful_active_health_check_uneject_host", "detect_degraded_hosts")

func (b *clusterBuilder) outlier() error {
	o := b.in.GetOutlierDetection()
	if o == nil {
		return nil
	}
	if err := onlyFields(o, outlierFields); err != nil {
		return at("outlier_detection", err)
	}
	s, err := outlierSettings(o)
	if err != nil {
		return at("outlier_detection", err)
	}
	b.out.Outlier = &s
	if number(o.GetEnforcingSuccessRate(), 100) > 0 {
		b.warn("outlier_detection.enforcing_success_rate: hosts are not ejected by success rate; Istio sets it to 0")
	}
	if number(o.GetEnforcingFailurePercentage(), 0) > 0 || number(o.GetEnforcingFailurePercentageLocalOrigin(), 0) > 0 {
		b.warn("outlier_detection.enforcing_failure_percentage: hosts are not ejected by failure percentage")
	}
	if o.GetDetectDegradedHosts().GetValue() {
		b.warn("outlier_detection.detect_degraded_hosts: x-envoy-degraded is not looked at")
	}
	return nil
}

func outlierSettings(o *clusterv3.OutlierDetection) (outlier.Settings, error) {
	s := outlier.Defaults()
	s.Consecutive5xx = number(o.GetConsecutive_5Xx(), s.Consecutive5xx)
	s.ConsecutiveGateway = number(o.GetConsecutiveGatewayFailure(), s.ConsecutiveGateway)
	s.ConsecutiveLocalOrigin = number(o.GetConsecutiveLocalOriginFailure(), s.ConsecutiveLocalOrigin)
	s.SplitLocalOrigin = o.GetSplitExternalLocalOriginErrors()
	s.AlwaysEjectOneHost = o.GetAlwaysEjectOneHost().GetValue()
	var err error
	for _, p := range []struct {
		field string
		value *wrapperspb.UInt32Value
		to    *uint8
	}{
		{"max_ejection_percent", o.GetMaxEjectionPercent(), &s.MaxEjectionPercent},
		{"enforcing_consecutive_5xx", o.GetEnforcingConsecutive_5Xx(), &s.Enforcing5xx},
		{"enforcing_consecutive_gateway_failure", o.GetEnforcingConsecutiveGatewayFailure(), &s.EnforcingGateway},
		{"enforcing_consecutive_local_origin_failure", o.GetEnforcingConsecutiveLocalOriginFailure(), &s.EnforcingLocalOrigin},
	} {
		if *p.to, err = percent(p.field, p.value, *p.to); err != nil {
			return s, err
		}
	}
	if s.Interval, err = span("interval", o.GetInterval(), s.Interval); err != nil {
		return s, err
	}
	if s.BaseEjectionTime, err = span("base_ejection_time", o.GetBaseEjectionTime(), s.BaseEjectionTime); err != nil {
		return s, err
	}
	if s.Jitter, err = span("max_ejection_time_jitter", o.GetMaxEjectionTimeJitter(), 0); err != nil {
		return s, err
	}
	if s.MaxEjectionTime, err = span("max_ejection_time", o.GetMaxEjectionTime(), max(s.MaxEjectionTime, s.BaseEjectionTime)); err != nil {
		return s, err
	}
	switch {
	case s.Interval == 0:
		return s, fmt.Errorf("interval: must be greater than 0")
	case s.BaseEjectionTime == 0:
		return s, fmt.Errorf("base_ejection_time: must be greater than 0")
	case s.MaxEjectionTime < s.BaseEjectionTime:
		return s, fmt.Errorf("max_ejection_time: is less than base_ejection_time")
	case s.MaxEjectionTime > maxEjection:
		return s, fmt.Errorf("max_ejection_time: is more than %v", maxEjection)
	}
	return s, nil
}

// maxEjection keeps multiples of a time within the range of numbers.
const maxEjection = 100 * 365 * 24 * time.Hour

// balance compiles lb_policy and what belongs to it.
func (b *clusterBuilder) balance() error {
	c, out := b.in, &b.out.Balance
	out.ActiveRequestBias, out.PanicThreshold = 1, 50
	original := c.GetType() == clusterv3.Cluster_ORIGINAL_DST
	switch p := c.GetLbPolicy(); {
	case (p == clusterv3.Cluster_CLUSTER_PROVIDED) != original:
		return fmt.Errorf("lb_policy: %s does not go with type %s", p, c.GetType())
	case original:
	case p == clusterv3.Cluster_ROUND_ROBIN:
		out.Policy = cluster.RoundRobin
	case p == clusterv3.Cluster_LEAST_REQUEST:
		out.Policy = cluster.LeastRequest
	case p == clusterv3.Cluster_RANDOM:
		out.Policy = cluster.Random
	case p == clusterv3.Cluster_RING_HASH:
		out.Policy = cluster.RingHash
	case p == clusterv3.Cluster_MAGLEV:
		out.Policy = cluster.Maglev
	default:
		return fmt.Errorf("lb_policy: %s is not supported", p)
	}
	if err := b.balanceConfig(); err != nil {
		return err
	}
	return at("common_lb_config", b.commonBalance(c.GetCommonLbConfig()))
}

// maxRing and maxMaglev are Envoy's bounds.
const (
	maxRing   = 8 << 20
	maxMaglev = 5000011
)

func (b *clusterBuilder) balanceConfig() error {
	out := &b.out.Balance
	switch lb := b.in.GetLbConfig().(type) {
	case *clusterv3.Cluster_RoundRobinLbConfig_:
		return b.slowStart("round_robin_lb_config", lb.RoundRobinLbConfig.GetSlowStartConfig())
	case *clusterv3.Cluster_LeastRequestLbConfig_:
		l := lb.LeastRequestLbConfig
		if out.ChoiceCount = number(l.GetChoiceCount(), 2); out.ChoiceCount < 2 {
			return fmt.Errorf("least_request_lb_config.choice_count: must be at least 2")
		}
		if bias := l.GetActiveRequestBias(); bias != nil {
			out.ActiveRequestBias = bias.GetDefaultValue()
			if !(out.ActiveRequestBias >= 0) || math.IsInf(out.ActiveRequestBias, 1) {
				return fmt.Errorf("least_request_lb_config.active_request_bias: must be a number from 0 on")
			}
		}
		return b.slowStart("least_request_lb_config", l.GetSlowStartConfig())
	case *clusterv3.Cluster_RingHashLbConfig_:
		l := lb.RingHashLbConfig
		if l.GetHashFunction() != clusterv3.Cluster_RingHashLbConfig_XX_HASH {
			return fmt.Errorf("ring_hash_lb_config.hash_function: %s is not supported", l.GetHashFunction())
		}
		out.MinRingSize, out.MaxRingSize = l.GetMinimumRingSize().GetValue(), l.GetMaximumRingSize().GetValue()
		if out.MinRingSize > maxRing || out.MaxRingSize > maxRing {
			return fmt.Errorf("ring_hash_lb_config: a ring has at most %d entries", maxRing)
		}
		if out.MaxRingSize != 0 && out.MinRingSize > out.MaxRingSize {
			return fmt.Errorf("ring_hash_lb_config.minimum_ring_size: is more than maximum_ring_size")
		}
	case *clusterv3.Cluster_MaglevLbConfig_:
		if out.TableSize = lb.MaglevLbConfig.GetTableSize().GetValue(); out.TableSize > maxMaglev {
			return fmt.Errorf("maglev_lb_config.table_size: is more than %d", maxMaglev)
		}
	}
	return nil
}

func (b *clusterBuilder) slowStart(path string, s *clusterv3.Cluster_SlowStartConfig) error {
	if s == nil {
		return nil
	}
	path += ".slow_start_config"
	window, err := span("slow_start_window", s.GetSlowStartWindow(), 0)
	if err != nil {
		return at(path, err)
	}
	out := &cluster.SlowStart{Window: window, Aggression: 1, MinWeightPercent: 10}
	if a := s.GetAggression(); a != nil {
		if out.Aggression = a.GetDefaultValue(); !(out.Aggression > 0) || math.IsInf(out.Aggression, 1) {
			return fmt.Errorf("%s.aggression: must be greater than 0", path)
		}
	}
	if p := s.GetMinWeightPercent(); p != nil {
		out.MinWeightPercent = p.GetValue()
	}
	b.out.Balance.SlowStart = out
	return nil
}

// commonFields are those that are compiled, or that are about active health
// checks, about a cluster of the proxies themselves, or about sticky
// sessions, none of which exist.
var commonFields = fieldSet("healthy_panic_threshold", "locality_weighted_lb_config", "zone_aware_lb_config", "update_merge_window",
	"ignore_new_hosts_until_first_hc", "override_host_status")

func (b *clusterBuilder) commonBalance(c *clusterv3.Cluster_CommonLbConfig) error {
	if c == nil {
		return nil
	}
	if err := onlyFields(c, commonFields); err != nil {
		return err
	}
	if t := c.GetHealthyPanicThreshold(); t != nil {
		b.out.Balance.PanicThreshold = t.GetValue()
	}
	b.out.Balance.LocalityWeighted = c.GetLocalityWeightedLbConfig() != nil
	return nil
}
