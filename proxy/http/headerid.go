// SPDX-License-Identifier: Apache-2.0

package http

// HeaderID numbers the field names that the proxy itself looks at, so that a
// look-up compares a byte and not a string. All other names are HeaderOther.
type HeaderID uint8

// The well-known field names.
const (
	HeaderOther HeaderID = iota
	HeaderHost
	HeaderConnection
	HeaderContentLength
	HeaderTransferEncoding
	HeaderTE
	HeaderTrailer
	HeaderUpgrade
	HeaderKeepAlive
	HeaderProxyConnection
	HeaderExpect
	HeaderContentType
	HeaderUserAgent
	HeaderServer
	HeaderDate
	HeaderVia
	HeaderCookie
	HeaderAuthorization
	HeaderProxyAuthorization
	HeaderProxyAuthenticate
	HeaderLocation
	HeaderOrigin
	HeaderAccept
	HeaderAcceptEncoding
	HeaderXForwardedFor
	HeaderXForwardedProto
	HeaderXForwardedHost
	HeaderXForwardedPort
	HeaderXForwardedClientCert
	HeaderXRequestID
	HeaderXClientTraceID
	HeaderTraceparent
	HeaderTracestate
	HeaderB3
	HeaderXB3TraceID
	HeaderXB3SpanID
	HeaderXB3ParentSpanID
	HeaderXB3Sampled
	HeaderXB3Flags
	HeaderXEnvoyUpstreamServiceTime
	HeaderXEnvoyAttemptCount
	HeaderXEnvoyExpectedRqTimeoutMs
	HeaderXEnvoyOriginalPath
	HeaderXEnvoyOriginalHost
	HeaderXEnvoyDecoratorOperation
	HeaderXEnvoyPeerMetadata
	HeaderXEnvoyPeerMetadataID
	HeaderXEnvoyUpstreamRqTimeoutMs
	HeaderXEnvoyUpstreamRqPerTryTimeoutMs
	HeaderXEnvoyRetryOn
	HeaderXEnvoyRetryGrpcOn
	HeaderXEnvoyMaxRetries
	HeaderXEnvoyInternal
	HeaderXEnvoyExternalAddress
	HeaderXEnvoyOverloaded
	HeaderXEnvoyRatelimited
	HeaderXEnvoyHedgeOnPerTryTimeout
	HeaderXEnvoyRetriableStatusCodes
	HeaderXEnvoyRetriableHeaderNames
	HeaderXEnvoyUpstreamAltStatName
	HeaderXEnvoyImmediateHealthCheckFail
	HeaderXEnvoyIsTimeoutRetry
	HeaderXEnvoyUpstreamRqTimeoutAltResponse
	HeaderXEnvoyUpstreamStreamDurationMs
	HeaderXEnvoyForceTrace
	HeaderXEnvoyIPTags
	HeaderXEnvoyDownstreamServiceCluster
	HeaderXEnvoyDownstreamServiceNode
	HeaderGRPCStatus
	HeaderGRPCMessage
	HeaderGRPCTimeout
	numHeaderIDs
)

var headerNames = [numHeaderIDs]string{
	HeaderHost:                               "host",
	HeaderConnection:                         "connection",
	HeaderContentLength:                      "content-length",
	HeaderTransferEncoding:                   "transfer-encoding",
	HeaderTE:                                 "te",
	HeaderTrailer:                            "trailer",
	HeaderUpgrade:                            "upgrade",
	HeaderKeepAlive:                          "keep-alive",
	HeaderProxyConnection:                    "proxy-connection",
	HeaderExpect:                             "expect",
	HeaderContentType:                        "content-type",
	HeaderUserAgent:                          "user-agent",
	HeaderServer:                             "server",
	HeaderDate:                               "date",
	HeaderVia:                                "via",
	HeaderCookie:                             "cookie",
	HeaderAuthorization:                      "authorization",
	HeaderProxyAuthorization:                 "proxy-authorization",
	HeaderProxyAuthenticate:                  "proxy-authenticate",
	HeaderLocation:                           "location",
	HeaderOrigin:                             "origin",
	HeaderAccept:                             "accept",
	HeaderAcceptEncoding:                     "accept-encoding",
	HeaderXForwardedFor:                      "x-forwarded-for",
	HeaderXForwardedProto:                    "x-forwarded-proto",
	HeaderXForwardedHost:                     "x-forwarded-host",
	HeaderXForwardedPort:                     "x-forwarded-port",
	HeaderXForwardedClientCert:               "x-forwarded-client-cert",
	HeaderXRequestID:                         "x-request-id",
	HeaderXClientTraceID:                     "x-client-trace-id",
	HeaderTraceparent:                        "traceparent",
	HeaderTracestate:                         "tracestate",
	HeaderB3:                                 "b3",
	HeaderXB3TraceID:                         "x-b3-traceid",
	HeaderXB3SpanID:                          "x-b3-spanid",
	HeaderXB3ParentSpanID:                    "x-b3-parentspanid",
	HeaderXB3Sampled:                         "x-b3-sampled",
	HeaderXB3Flags:                           "x-b3-flags",
	HeaderXEnvoyUpstreamServiceTime:          "x-envoy-upstream-service-time",
	HeaderXEnvoyAttemptCount:                 "x-envoy-attempt-count",
	HeaderXEnvoyExpectedRqTimeoutMs:          "x-envoy-expected-rq-timeout-ms",
	HeaderXEnvoyOriginalPath:                 "x-envoy-original-path",
	HeaderXEnvoyOriginalHost:                 "x-envoy-original-host",
	HeaderXEnvoyDecoratorOperation:           "x-envoy-decorator-operation",
	HeaderXEnvoyPeerMetadata:                 "x-envoy-peer-metadata",
	HeaderXEnvoyPeerMetadataID:               "x-envoy-peer-metadata-id",
	HeaderXEnvoyUpstreamRqTimeoutMs:          "x-envoy-upstream-rq-timeout-ms",
	HeaderXEnvoyUpstreamRqPerTryTimeoutMs:    "x-envoy-upstream-rq-per-try-timeout-ms",
	HeaderXEnvoyRetryOn:                      "x-envoy-retry-on",
	HeaderXEnvoyRetryGrpcOn:                  "x-envoy-retry-grpc-on",
	HeaderXEnvoyMaxRetries:                   "x-envoy-max-retries",
	HeaderXEnvoyInternal:                     "x-envoy-internal",
	HeaderXEnvoyExternalAddress:              "x-envoy-external-address",
	HeaderXEnvoyOverloaded:                   "x-envoy-overloaded",
	HeaderXEnvoyRatelimited:                  "x-envoy-ratelimited",
	HeaderXEnvoyHedgeOnPerTryTimeout:         "x-envoy-hedge-on-per-try-timeout",
	HeaderXEnvoyRetriableStatusCodes:         "x-envoy-retriable-status-codes",
	HeaderXEnvoyRetriableHeaderNames:         "x-envoy-retriable-header-names",
	HeaderXEnvoyUpstreamAltStatName:          "x-envoy-upstream-alt-stat-name",
	HeaderXEnvoyImmediateHealthCheckFail:     "x-envoy-immediate-health-check-fail",
	HeaderXEnvoyIsTimeoutRetry:               "x-envoy-is-timeout-retry",
	HeaderXEnvoyUpstreamRqTimeoutAltResponse: "x-envoy-upstream-rq-timeout-alt-response",
	HeaderXEnvoyUpstreamStreamDurationMs:     "x-envoy-upstream-stream-duration-ms",
	HeaderXEnvoyForceTrace:                   "x-envoy-force-trace",
	HeaderXEnvoyIPTags:                       "x-envoy-ip-tags",
	HeaderXEnvoyDownstreamServiceCluster:     "x-envoy-downstream-service-cluster",
	HeaderXEnvoyDownstreamServiceNode:        "x-envoy-downstream-service-node",
	HeaderGRPCStatus:                         "grpc-status",
	HeaderGRPCMessage:                        "grpc-message",
	HeaderGRPCTimeout:                        "grpc-timeout",
}

var headerNameBytes = func() (all [numHeaderIDs][]byte) {
	for id := HeaderOther + 1; id < numHeaderIDs; id++ {
		all[id] = []byte(headerNames[id])
	}
	return all
}()

// HeaderName returns the name of a number in lower case. It is read-only.
func HeaderName(id HeaderID) []byte { return headerNameBytes[id] }

// String returns the canonical lower-case name, empty for HeaderOther.
func (id HeaderID) String() string { return headerNames[id] }
