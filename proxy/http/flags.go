// SPDX-License-Identifier: Apache-2.0

package http

// Flags is a set of Envoy's response flags, as %RESPONSE_FLAGS% prints them
// (Envoy: source/common/stream_info/utility.h).
type Flags uint32

// The flags, in the order in which Envoy prints them.
const (
	FlagFailedLocalHealthCheck     Flags = 1 << iota // LH
	FlagNoHealthyUpstream                            // UH
	FlagUpstreamRequestTimeout                       // UT
	FlagLocalReset                                   // LR
	FlagUpstreamRemoteReset                          // UR
	FlagUpstreamConnFailure                          // UF
	FlagUpstreamConnTermination                      // UC
	FlagUpstreamOverflow                             // UO
	FlagNoRoute                                      // NR
	FlagDelayInjected                                // DI
	FlagFaultInjected                                // FI
	FlagRateLimited                                  // RL
	FlagUnauthorizedExternal                         // UAEX
	FlagRateLimitServiceError                        // RLSE
	FlagDownstreamConnTermination                    // DC
	FlagUpstreamRetryLimitExceeded                   // URX
	FlagStreamIdleTimeout                            // SI
	FlagInvalidEnvoyHeaders                          // IH
	FlagDownstreamProtocolError                      // DPE
	FlagUpstreamMaxStreamDuration                    // UMSDR
	FlagNoFilterConfig                               // NFCF
	FlagDurationTimeout                              // DT
	FlagUpstreamProtocolError                        // UPE
	FlagNoCluster                                    // NC
	FlagOverloadManager                              // OM
	FlagDNSFailure                                   // DF
	numFlags                       = iota
)

var flagNames = [numFlags]string{"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX",
	"RLSE", "DC", "URX", "SI", "IH", "DPE", "UMSDR", "NFCF", "DT", "UPE", "NC", "OM", "DF"}

// Append appends the short names, joined by commas, or "-" for the empty set.
func (f Flags) Append(dst []byte) []byte {
	if f == 0 {
		return append(dst, '-')
	}
	first := true
	for i := range flagNames {
		if f&(1<<i) == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, flagNames[i]...)
	}
	return dst
}

// String returns what Append appends.
func (f Flags) String() string { return string(f.Append(nil)) }
