// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"math"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// noThresholds is istiod's default: no limit on anything. Envoy's own defaults (1024
// connections, 3 retries) trip while pods are replaced.
func noThresholds() *clusterv3.CircuitBreakers_Thresholds {
	unlimited := wrapperspb.UInt32(math.MaxUint32)
	return &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections: unlimited, MaxPendingRequests: unlimited, MaxRequests: unlimited, MaxRetries: unlimited,
	}
}

// lbConfig sets the share of healthy hosts, in percent, below which load balancing
// takes all hosts to be healthy; 0 never does.
func lbConfig(panicThreshold float64) *clusterv3.Cluster_CommonLbConfig {
	return &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: panicThreshold}}
}

// asDownstream makes the upstream connection speak the version that the client speaks.
func asDownstream() *httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig {
	return &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
		UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
			HttpProtocolOptions:  &corev3.Http1ProtocolOptions{},
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
		},
	}
}

// applyPool sets limits, timeouts, keep-alive and the HTTP version of connections.
// Zero in a numeric field of connectionPool is "not set", as Istio's API can't tell.
func (b *clusterBuilder) applyPool(c *clusterv3.Cluster, p *servicePort, pol *policy) {
	pool := pol.pool.value
	tcp, http := pool.GetTcp(), pool.GetHttp()
	if t := tcp.GetConnectTimeout(); t != nil {
		c.ConnectTimeout = t
	}
	if ka := tcp.GetTcpKeepalive(); ka != nil {
		c.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: keepalive(ka)}
	}
	c.CircuitBreakers = b.noLimits
	if pool != nil || pol.retryBudget.value != nil {
		c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{thresholds(pol)}}
	}
	options := &httpv3.HttpProtocolOptions{CommonHttpProtocolOptions: connectionOptions(tcp, http)}
	upstreamProtocol(options, p.protocol, http)
	applyAutoSNI(options, pol.tls.value)
	if options.CommonHttpProtocolOptions == nil && options.UpstreamProtocolOptions == nil && options.UpstreamHttpProtocolOptions == nil {
		return
	}
	if options.UpstreamProtocolOptions == nil { // Envoy requires one
		options.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{},
			},
		}
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsKey: pack(options)}
}

func thresholds(pol *policy) *clusterv3.CircuitBreakers_Thresholds {
	t := noThresholds()
	set := func(field **wrapperspb.UInt32Value, n int32) {
		if n > 0 {
			*field = wrapperspb.UInt32(uint32(n))
		}
	}
	set(&t.MaxConnections, pol.pool.value.GetTcp().GetMaxConnections())
	set(&t.MaxPendingRequests, pol.pool.value.GetHttp().GetHttp1MaxPendingRequests())
	set(&t.MaxRequests, pol.pool.value.GetHttp().GetHttp2MaxRequests())
	set(&t.MaxRetries, pol.pool.value.GetHttp().GetMaxRetries())
	if budget := pol.retryBudget.value; budget != nil {
		percent, concurrency := 20.0, uint32(3) // Envoy's defaults, spelled out as istiod does
		if budget.Percent != nil {
			percent = budget.Percent.Value
		}
		if budget.MinRetryConcurrency > 0 {
			concurrency = budget.MinRetryConcurrency
		}
		t.RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
			BudgetPercent:       &typev3.Percent{Value: percent},
			BudgetInterval:      budget.BudgetInterval,
			MinRetryConcurrency: wrapperspb.UInt32(concurrency),
		}
	}
	return t
}

func keepalive(ka *networking.ConnectionPoolSettings_TCPSettings_TcpKeepalive) *corev3.TcpKeepalive {
	out := &corev3.TcpKeepalive{}
	if ka.Probes > 0 {
		out.KeepaliveProbes = wrapperspb.UInt32(ka.Probes)
	}
	if ka.Time != nil {
		out.KeepaliveTime = wrapperspb.UInt32(uint32(ka.Time.Seconds))
	}
	if ka.Interval != nil {
		out.KeepaliveInterval = wrapperspb.UInt32(uint32(ka.Interval.Seconds))
	}
	return out
}

// connectionOptions is what holds of upstream HTTP connections of any version; nil
// when nothing is set.
func connectionOptions(tcp *networking.ConnectionPoolSettings_TCPSettings, http *networking.ConnectionPoolSettings_HTTPSettings) *corev3.HttpProtocolOptions {
	idle := http.GetIdleTimeout()
	if idle == nil {
		idle = tcp.GetIdleTimeout()
	}
	// istiod adds the empty message for the HTTP/2 settings too.
	if idle == nil && tcp.GetMaxConnectionDuration() == nil && http.GetMaxRequestsPerConnection() <= 0 &&
		http.GetMaxConcurrentStreams() <= 0 && http.GetHttp2KeepAlive() == nil {
		return nil
	}
	out := &corev3.HttpProtocolOptions{IdleTimeout: idle, MaxConnectionDuration: tcp.GetMaxConnectionDuration()}
	if n := http.GetMaxRequestsPerConnection(); n > 0 {
		out.MaxRequestsPerConnection = wrapperspb.UInt32(uint32(n))
	}
	return out
}

// upstreamProtocol chooses the HTTP version: HTTP/2 where h2UpgradePolicy or the port
// says so, the client's where useClientProtocol or an unnamed port leaves it open. Who
// asks for an upgrade is sure that the port speaks HTTP/2, so that counts before all
// (istiod's applyH2Upgrade comes last). DO_NOT_UPGRADE is about the mesh's default and
// doesn't take HTTP/2 from a port that is named for it.
func upstreamProtocol(options *httpv3.HttpProtocolOptions, p protocol, http *networking.ConnectionPoolSettings_HTTPSettings) {
	upgrade := http.GetH2UpgradePolicy() == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE
	switch {
	case upgrade:
		options.UpstreamProtocolOptions = explicitHTTP2(http)
	case http.GetUseClientProtocol(), p == protoUnnamed:
		options.UpstreamProtocolOptions = asDownstream()
	case p.isHTTP2():
		options.UpstreamProtocolOptions = explicitHTTP2(http)
	}
}

// explicitHTTP2 makes connections speak HTTP/2 by prior knowledge.
func explicitHTTP2(http *networking.ConnectionPoolSettings_HTTPSettings) *httpv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	h2 := &corev3.Http2ProtocolOptions{}
	if n := http.GetMaxConcurrentStreams(); n > 0 {
		h2.MaxConcurrentStreams = wrapperspb.UInt32(uint32(n))
	}
	if ka := http.GetHttp2KeepAlive(); ka != nil {
		h2.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: ka.Interval, Timeout: ka.Timeout}
	}
	return &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: h2},
		},
	}
}

// applyOutlier maps outlierDetection as istiod does: counting ejection only, enforced
// whenever a count is given, success rates never.
func applyOutlier(c *clusterv3.Cluster, pol *policy) {
	in := pol.outlier.value
	if in == nil {
		return
	}
	enforce := func(n uint32) *wrapperspb.UInt32Value {
		if n > 0 {
			n = 100
		}
		return wrapperspb.UInt32(n)
	}
	out := &clusterv3.OutlierDetection{
		Interval:             in.Interval,
		BaseEjectionTime:     in.BaseEjectionTime,
		EnforcingSuccessRate: wrapperspb.UInt32(0),
	}
	if n := in.Consecutive_5XxErrors; n != nil {
		out.Consecutive_5Xx, out.EnforcingConsecutive_5Xx = n, enforce(n.Value)
	}
	if n := in.ConsecutiveGatewayErrors; n != nil {
		out.ConsecutiveGatewayFailure, out.EnforcingConsecutiveGatewayFailure = n, enforce(n.Value)
	}
	if in.MaxEjectionPercent > 0 {
		out.MaxEjectionPercent = wrapperspb.UInt32(uint32(in.MaxEjectionPercent))
	}
	if in.SplitExternalLocalOriginErrors {
		out.SplitExternalLocalOriginErrors = true
		if n := in.ConsecutiveLocalOriginFailures; n.GetValue() > 0 {
			out.ConsecutiveLocalOriginFailure, out.EnforcingConsecutiveLocalOriginFailure = n, enforce(n.Value)
		}
		out.EnforcingLocalOriginSuccessRate = wrapperspb.UInt32(0)
	}
	c.OutlierDetection = out
	if in.MinHealthPercent > 0 {
		c.CommonLbConfig = lbConfig(float64(in.MinHealthPercent))
	}
}

// applyLoadBalancer sets the algorithm.
func applyLoadBalancer(c *clusterv3.Cluster, pol *policy) {
	in := pol.lb.value
	if l := in.GetLocalityLbSetting(); l != nil && (l.Enabled == nil || l.Enabled.Value) {
		if l.Distribute != nil || (c.OutlierDetection != nil && (l.Failover != nil || l.FailoverPriority != nil)) {
			c.CommonLbConfig = lbConfig(c.CommonLbConfig.HealthyPanicThreshold.GetValue())
			c.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
				LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
			}
		}
	}
	slow := slowStart(in)
	switch in.GetSimple() {
	case networking.LoadBalancerSettings_RANDOM:
		c.LbPolicy = clusterv3.Cluster_RANDOM
	case networking.LoadBalancerSettings_ROUND_ROBIN:
		c.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
		if slow != nil {
			c.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{
				RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: slow},
			}
		}
	default:
		c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		if slow != nil {
			c.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{
				LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{SlowStartConfig: slow},
			}
		}
	}
	if hash := in.GetConsistentHash(); hash != nil {
		applyHash(c, hash)
	}
}

// slowStart is how a new host's share of requests grows.
func slowStart(in *networking.LoadBalancerSettings) *clusterv3.Cluster_SlowStartConfig {
	w := in.GetWarmup()
	if w == nil {
		if d := in.GetWarmupDurationSecs(); d != nil {
			return &clusterv3.Cluster_SlowStartConfig{SlowStartWindow: d}
		}
		return nil
	}
	aggression, minimum := 1.0, 10.0
	if w.Aggression != nil {
		aggression = w.Aggression.Value
	}
	if w.MinimumPercent != nil {
		minimum = w.MinimumPercent.Value
	}
	return &clusterv3.Cluster_SlowStartConfig{
		SlowStartWindow: w.Duration,
		// Envoy requires a runtime key; this one is in no runtime layer.
		Aggression:       &corev3.RuntimeDouble{DefaultValue: aggression, RuntimeKey: "("},
		MinWeightPercent: &typev3.Percent{Value: minimum},
	}
}

// applyHash sets a ring or table; the key to hash is on the routes.
func applyHash(c *clusterv3.Cluster, in *networking.LoadBalancerSettings_ConsistentHashLB) {
	if m := in.GetMaglev(); m != nil {
		c.LbPolicy, c.LbConfig = clusterv3.Cluster_MAGLEV, nil
		if m.TableSize != 0 {
			c.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{
				MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(m.TableSize)},
			}
		}
		return
	}
	size := uint64(1024)
	if r := in.GetRingHash(); r != nil {
		size = r.MinimumRingSize
		//lint:ignore SA1019 deprecated, and still part of the API
	} else if n := in.GetMinimumRingSize(); n != 0 {
		size = n
	}
	c.LbPolicy, c.LbConfig = clusterv3.Cluster_RING_HASH, nil
	if size != 0 {
		c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{
			RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{MinimumRingSize: wrapperspb.UInt64(size)},
		}
	}
}

// checkPolicy reports what a policy asks for and doesn't get.
func (b *clusterBuilder) checkPolicy(pol *policy) {
	if s := pol.proxyProtocol; s.value != nil {
		b.rep.errorf(s.obj, s.field(""), "is not supported yet by this build: a server that expects a PROXY header refuses connections without one")
	}
	if s := pol.tunnel; s.value != nil {
		b.rep.unsupportedf(s.obj, s.field(""), "connections are not tunnelled")
	}
	if s := pol.outlier; s.value != nil {
		//lint:ignore SA1019 it is reported
		if s.value.ConsecutiveErrors != 0 {
			b.rep.warnf(s.obj, s.field(".consecutiveErrors"), "has no effect; use consecutive5xxErrors or consecutiveGatewayErrors")
		}
		if len(s.value.OutlierDetectionHttpErrorCodes) > 0 {
			b.rep.unsupportedf(s.obj, s.field(".outlierDetectionHttpErrorCodes"), "5xx codes count")
		}
	}
	if s := pol.lb; s.value != nil {
		if s.value.ZoneAwareLbSetting != nil {
			b.rep.unsupportedf(s.obj, s.field(".zoneAwareLbSetting"), "zones are not preferred")
		}
		if len(s.value.GetLocalityLbSetting().GetFailoverPriority()) > 0 {
			b.rep.unsupportedf(s.obj, s.field(".localityLbSetting.failoverPriority"), "failover goes by region, zone and sub-zone")
		}
	}
}
