// SPDX-License-Identifier: Apache-2.0

package source

import (
	"math/big"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

func (s *subject) destinationRule(at *place, r *networking.DestinationRule) {
	if reason := badHost(r.Host); r.Host == "" {
		s.failAt(at, "host", "is required")
	} else if reason != "" {
		s.failAt(at, "host", "%q %s", clip(r.Host), reason)
	}
	s.trafficPolicy(at.key("trafficPolicy"), r.TrafficPolicy)
	names := map[string]int{}
	for i, sub := range r.Subsets {
		here := at.key("subsets").item(i)
		if sub.Name == "" {
			s.failAt(here, "name", "is required")
		} else if reason := badLabel(sub.Name); reason != "" {
			s.failAt(here, "name", "%q %s", clip(sub.Name), reason)
		} else if first, ok := names[sub.Name]; ok {
			s.failAt(here, "name", "%q is the name of subsets[%d] too", sub.Name, first)
		} else {
			names[sub.Name] = i
		}
		s.checkLabels(here.key("labels"), sub.Labels)
		s.trafficPolicy(here.key("trafficPolicy"), sub.TrafficPolicy)
	}
	s.checkExportTo(at, r.ExportTo, false)
	if sel := r.WorkloadSelector; sel != nil {
		s.checkSelector(at.key("workloadSelector").key("matchLabels"), sel.MatchLabels)
		if len(r.ExportTo) > 1 || len(r.ExportTo) == 1 && r.ExportTo[0] != "." && r.ExportTo[0] != s.Namespace {
			s.failAt(at, "exportTo", `a rule with a workloadSelector is for its own namespace only; wants "."`)
		}
	}
}

func (s *subject) trafficPolicy(at *place, p *networking.TrafficPolicy) {
	if p == nil {
		return
	}
	if p.OutlierDetection == nil && p.ConnectionPool == nil && p.LoadBalancer == nil && p.Tls == nil &&
		p.PortLevelSettings == nil && p.Tunnel == nil && p.ProxyProtocol == nil && p.RetryBudget == nil {
		s.failAt(at, "", "needs at least one setting")
	}
	if p.Tunnel != nil && p.ProxyProtocol != nil {
		s.failAt(at, "proxyProtocol", `can't be given together with "tunnel"`)
	}
	s.policySettings(at, p)
	for i, port := range p.PortLevelSettings {
		here := at.key("portLevelSettings").item(i)
		if port.Port == nil {
			s.failAt(here, "port", "is required")
		} else {
			s.checkPort(here.key("port"), "number", port.Port.Number)
		}
		if port.OutlierDetection == nil && port.ConnectionPool == nil && port.LoadBalancer == nil && port.Tls == nil {
			s.failAt(here, "", "needs at least one setting")
		}
		s.policySettings(here, port)
	}
	if t := p.Tunnel; t != nil {
		here := at.key("tunnel")
		if t.Protocol != "" && t.Protocol != "CONNECT" && t.Protocol != "POST" {
			s.failAt(here, "protocol", "%q isn't a way to tunnel; wants CONNECT or POST", clip(t.Protocol))
		}
		if reason := badFQDN(t.TargetHost); reason != "" && !isIP(t.TargetHost) {
			s.failAt(here, "targetHost", "%q %s", clip(t.TargetHost), reason)
		}
		s.checkPort(here, "targetPort", t.TargetPort)
	}
	if b := p.RetryBudget; b != nil && b.Percent != nil && (b.Percent.Value < 0 || b.Percent.Value > 100) {
		s.failAt(at.key("retryBudget"), "percent", "%v isn't a percentage; wants 0 to 100", b.Percent.Value)
	}
}

// policy is what a traffic policy and one for a single port have in common.
type policy interface {
	GetOutlierDetection() *networking.OutlierDetection
	GetConnectionPool() *networking.ConnectionPoolSettings
	GetLoadBalancer() *networking.LoadBalancerSettings
	GetTls() *networking.ClientTLSSettings
}

func (s *subject) policySettings(at *place, p policy) {
	s.outlierDetection(at.key("outlierDetection"), p.GetOutlierDetection())
	s.connectionPool(at.key("connectionPool"), p.GetConnectionPool())
	s.loadBalancer(at.key("loadBalancer"), p.GetLoadBalancer(), p.GetOutlierDetection())
	s.clientTLS(at.key("tls"), p.GetTls())
}

func (s *subject) outlierDetection(at *place, o *networking.OutlierDetection) {
	if o == nil {
		return
	}
	s.checkDuration(at, "interval", o.Interval)
	s.checkDuration(at, "baseEjectionTime", o.BaseEjectionTime)
	s.checkWholePercent(at, "maxEjectionPercent", o.MaxEjectionPercent)
	s.checkWholePercent(at, "minHealthPercent", o.MinHealthPercent)
	//lint:ignore SA1019 deprecated, and still part of the API
	if n := o.ConsecutiveErrors; n != 0 {
		s.checkCount(at, "consecutiveErrors", n)
		s.warnAt(at, "consecutiveErrors", "is deprecated; use consecutive5xxErrors or consecutiveGatewayErrors")
	}
	if !o.SplitExternalLocalOriginErrors && o.ConsecutiveLocalOriginFailures.GetValue() > 0 {
		s.failAt(at, "consecutiveLocalOriginFailures", "has no effect unless splitExternalLocalOriginErrors is true")
	}
	for i, code := range o.OutlierDetectionHttpErrorCodes {
		s.checkStatus(at.key("outlierDetectionHttpErrorCodes").item(i), "", int64(code))
	}
}

func (s *subject) connectionPool(at *place, c *networking.ConnectionPoolSettings) {
	if c == nil {
		return
	}
	if c.Http == nil && c.Tcp == nil {
		s.failAt(at, "", "needs tcp, http or both")
	}
	if h := c.Http; h != nil {
		s.httpPool(at.key("http"), h)
	}
	if t := c.Tcp; t != nil {
		here := at.key("tcp")
		s.checkCount(here, "maxConnections", t.MaxConnections)
		s.checkDuration(here, "connectTimeout", t.ConnectTimeout)
		s.checkDuration(here, "maxConnectionDuration", t.MaxConnectionDuration)
		if t.IdleTimeout.AsDuration() != 0 { // 0s turns it off
			s.checkDuration(here, "idleTimeout", t.IdleTimeout)
		}
		if k := t.TcpKeepalive; k != nil {
			s.checkDuration(here.key("tcpKeepalive"), "time", k.Time)
			s.checkDuration(here.key("tcpKeepalive"), "interval", k.Interval)
		}
	}
}

func (s *subject) httpPool(at *place, h *networking.ConnectionPoolSettings_HTTPSettings) {
	s.checkCount(at, "http1MaxPendingRequests", h.Http1MaxPendingRequests)
	s.checkCount(at, "http2MaxRequests", h.Http2MaxRequests)
	s.checkCount(at, "maxRequestsPerConnection", h.MaxRequestsPerConnection)
	s.checkCount(at, "maxRetries", h.MaxRetries)
	s.checkCount(at, "maxConcurrentStreams", h.MaxConcurrentStreams)
	s.checkDuration(at, "idleTimeout", h.IdleTimeout)
	if h.H2UpgradePolicy == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE && h.UseClientProtocol {
		s.failAt(at, "useClientProtocol", "can't be true when h2UpgradePolicy is UPGRADE")
	}
	if k := h.Http2KeepAlive; k != nil {
		here := at.key("http2KeepAlive")
		if k.Interval == nil {
			s.failAt(here, "interval", "is required")
		}
		if k.Timeout == nil {
			s.failAt(here, "timeout", "is required")
		}
		s.checkDuration(here, "interval", k.Interval)
		s.checkDuration(here, "timeout", k.Timeout)
	}
}

func (s *subject) loadBalancer(at *place, lb *networking.LoadBalancerSettings, outlier *networking.OutlierDetection) {
	if lb == nil {
		return
	}
	s.consistentHash(at.key("consistentHash"), lb.GetConsistentHash())
	if lb.LocalityLbSetting != nil && lb.ZoneAwareLbSetting != nil {
		s.failAt(at, "zoneAwareLbSetting", `can't be given together with "localityLbSetting"`)
	}
	s.localityLB(at.key("localityLbSetting"), lb.LocalityLbSetting, outlier)
	if z := lb.ZoneAwareLbSetting; z != nil {
		here := at.key("zoneAwareLbSetting")
		for i, f := range z.Failover {
			s.failover(here.key("failover").item(i), f.From, f.To)
		}
		for i, label := range z.FailoverPriority {
			if isTopologyLabel(label) {
				s.failAt(here.key("failoverPriority").item(i), "", "%q is taken into account anyway", label)
			}
		}
		s.warnFailover(here, len(z.Failover)+len(z.FailoverPriority) > 0, outlier)
	}
	if w := lb.Warmup; w != nil {
		here := at.key("warmup")
		if w.Duration == nil {
			s.failAt(here, "duration", "is required")
		}
		s.checkDuration(here, "duration", w.Duration)
		if v := w.MinimumPercent.GetValue(); v < 0 || v > 100 {
			s.failAt(here, "minimumPercent", "%v isn't a percentage; wants 0 to 100", v)
		}
		if w.Aggression != nil && w.Aggression.Value <= 0 {
			s.failAt(here, "aggression", "%v is too small; wants more than 0", w.Aggression.Value)
		}
	}
}

// maxMaglevTable is the largest table of a Maglev hash, of Envoy's API.
const maxMaglevTable = 5000011

func (s *subject) consistentHash(at *place, h *networking.LoadBalancerSettings_ConsistentHashLB) {
	if h == nil {
		return
	}
	if h.HashKey == nil {
		s.warnAt(at, "", "has no effect without httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName")
	}
	if c := h.GetHttpCookie(); c != nil {
		here := at.key("httpCookie")
		if c.Name == "" {
			s.failAt(here, "name", "is required")
		}
		seen := map[string]bool{}
		for i, a := range c.Attributes {
			if a.Name == "" {
				s.failAt(here.key("attributes").item(i), "name", "is required")
			} else if seen[a.Name] {
				s.failAt(here.key("attributes").item(i), "name", "%q is given twice", clip(a.Name))
			}
			seen[a.Name] = true
		}
	}
	//lint:ignore SA1019 deprecated, and still part of the API
	if n := h.MinimumRingSize; n != 0 {
		s.warnAt(at, "minimumRingSize", "is deprecated; use ringHash.minimumRingSize")
		if h.HashAlgorithm != nil {
			s.failAt(at, "minimumRingSize", "can't be given together with ringHash or maglev")
		}
	}
	if m := h.GetMaglev(); m != nil {
		if n := m.TableSize; n >= maxMaglevTable || !new(big.Int).SetUint64(n).ProbablyPrime(0) {
			s.failAt(at.key("maglev"), "tableSize", "%d isn't a prime number below %d", n, maxMaglevTable)
		}
	}
}

func (s *subject) localityLB(at *place, l *networking.LocalityLoadBalancerSetting, outlier *networking.OutlierDetection) {
	if l == nil {
		return
	}
	if len(l.Distribute) > 0 && len(l.Failover) > 0 {
		s.failAt(at, "failover", `can't be given together with "distribute"`)
	}
	for i, d := range l.Distribute {
		here := at.key("distribute").item(i)
		s.locality(here.key("from"), d.From)
		var total uint64
		for _, to := range keysOf(d.To) {
			s.locality(here.key("to").key(to), to)
			if w := d.To[to]; w < 1 || w > 100 {
				s.failAt(here.key("to"), to, "%d isn't a share; wants 1 to 100", w)
			}
			total += uint64(d.To[to])
		}
		if total != 100 {
			s.failAt(here, "to", "the shares add up to %d; wants 100", total)
		}
	}
	for i, f := range l.Failover {
		s.failover(at.key("failover").item(i), f.From, f.To)
	}
	if len(l.Failover) > 0 {
		for i, label := range l.FailoverPriority {
			if isTopologyLabel(label) {
				s.failAt(at.key("failoverPriority").item(i), "", `%q can't be given together with "failover"`, label)
			}
		}
	}
	s.warnFailover(at, len(l.Failover)+len(l.FailoverPriority) > 0, outlier)
}

func isTopologyLabel(label string) bool {
	return oneOf(label, "topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")
}

// locality checks "region/zone/subzone", of which the end may be missing or a "*".
func (s *subject) locality(at *place, l string) {
	if i := strings.IndexByte(l, '*'); i >= 0 && i != len(l)-1 {
		s.failAt(at, "", `in %q "*" doesn't stand at the end`, clip(l))
	}
	for part := range strings.SplitSeq(l, "/") {
		if part == "" {
			s.failAt(at, "", "%q isn't a locality; wants region, region/zone or region/zone/subzone", clip(l))
			return
		}
	}
}

func (s *subject) failover(at *place, from, to string) {
	if from == to {
		s.failAt(at, "to", "%q is the same region as from", clip(to))
	}
	for _, f := range []struct{ field, region string }{{"from", from}, {"to", to}} {
		if strings.ContainsAny(f.region, "/*") {
			s.failAt(at, f.field, "%q isn't a region; zones and wildcards can't be given", clip(f.region))
		}
	}
}

func (s *subject) warnFailover(at *place, failover bool, outlier *networking.OutlierDetection) {
	if failover && outlier == nil {
		s.warnAt(at, "", "failover has no effect without outlierDetection")
	}
}

func (s *subject) clientTLS(at *place, t *networking.ClientTLSSettings) {
	if t == nil {
		return
	}
	simple := t.Mode == networking.ClientTLSSettings_SIMPLE
	mutual := t.Mode == networking.ClientTLSSettings_MUTUAL
	if t.InsecureSkipVerify.GetValue() {
		if (simple || mutual) && (t.CaCertificates != "" || t.SubjectAltNames != nil) || simple && t.CredentialName != "" {
			s.failAt(at, "insecureSkipVerify", "can't be true when caCertificates, credentialName or subjectAltNames say what to verify")
		}
	}
	if (simple || mutual) && t.CredentialName != "" {
		if t.ClientCertificate != "" || t.CaCertificates != "" || t.PrivateKey != "" || t.CaCrl != "" {
			s.failAt(at, "credentialName", "can't be given together with files of certificates and keys")
		}
		return
	}
	if mutual && t.ClientCertificate == "" {
		s.failAt(at, "clientCertificate", "is required for MUTUAL")
	}
	if mutual && t.PrivateKey == "" {
		s.failAt(at, "privateKey", "is required for MUTUAL")
	}
}
