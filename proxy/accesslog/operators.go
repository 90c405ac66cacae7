// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"pillion/proxy/http"
)

// op numbers the operators. The names are Envoy's.
type op uint8

const (
	opLiteral  op = iota
	opConstant    // a value known when the format is compiled
	opRequestField
	opRequestFieldNoQuery
	opResponseField
	opTrailer
	opStartTime
	opEmitTime
	opProtocol
	opUpstreamProtocol
	opResponseFlags
	opResponseFlagsLong
	opDetails
	opTerminationDetails
	opUpstreamFailure
	opDownstreamFailure
	opUpstreamHost
	opUpstreamHostIP
	opUpstreamCluster
	opUpstreamClusterRaw
	opUpstreamLocal
	opUpstreamLocalIP
	opDownstreamLocal
	opDownstreamLocalIP
	opDownstreamRemote
	opDownstreamRemoteIP
	opDirectRemote
	opDirectRemoteIP
	opServerName
	opRouteName
	opTLS     // a fact of the handshake
	opTLSTime // one that is a time
	opGRPCStatus
	opNothing  // what no exchange has; absent always
	opMetadata // a string as text, a value of its own kind in JSON
	opTraceID
	opSpanID

	// Those from here on are numbers.
	opResponseCode
	opBytesReceived
	opBytesSent
	opRequestHeadBytes
	opResponseHeadBytes
	opDuration
	opRequestDuration
	opResponseDuration
	opResponseTxDuration
	opSpan
	opAttempts
	opGRPCStatusNumber
	opUpstreamPort
	opUpstreamLocalPort
	opDownstreamLocalPort
	opDownstreamRemotePort
	opDirectRemotePort
)

// numeric reports whether the value is a number, as JSON tells apart.
func (o op) numeric() bool { return o >= opResponseCode }

// param tells what an operator takes in parentheses.
type param uint8

const (
	noParam param = iota
	fieldParam
	timeParam
	spanParam
	grpcParam
	detailsParam
	environmentParam
	stateParam
	metadataParam
)

// operator describes one name.
type operator struct {
	name  string
	op    op
	param param
}

// operators are all names that are understood. Read-only.
var operators = [...]operator{
	{"REQ", opRequestField, fieldParam},
	{"RESP", opResponseField, fieldParam},
	{"TRAILER", opTrailer, fieldParam},
	{"START_TIME", opStartTime, timeParam},
	{"START_TIME_LOCAL", opStartTime, timeParam},
	{"EMIT_TIME", opEmitTime, timeParam},
	{"EMIT_TIME_LOCAL", opEmitTime, timeParam},
	{"PROTOCOL", opProtocol, noParam},
	{"UPSTREAM_PROTOCOL", opUpstreamProtocol, noParam},
	{"RESPONSE_CODE", opResponseCode, noParam},
	{"RESPONSE_CODE_DETAILS", opDetails, detailsParam},
	{"RESPONSE_FLAGS", opResponseFlags, noParam},
	{"RESPONSE_FLAGS_LONG", opResponseFlagsLong, noParam},
	{"CONNECTION_TERMINATION_DETAILS", opTerminationDetails, noParam},
	{"UPSTREAM_TRANSPORT_FAILURE_REASON", opUpstreamFailure, noParam},
	{"DOWNSTREAM_TRANSPORT_FAILURE_REASON", opDownstreamFailure, noParam},
	{"BYTES_RECEIVED", opBytesReceived, noParam},
	{"BYTES_SENT", opBytesSent, noParam},
	{"REQUEST_HEADERS_BYTES", opRequestHeadBytes, noParam},
	{"RESPONSE_HEADERS_BYTES", opResponseHeadBytes, noParam},
	{"DURATION", opDuration, noParam},
	{"REQUEST_DURATION", opRequestDuration, noParam},
	{"RESPONSE_DURATION", opResponseDuration, noParam},
	{"RESPONSE_TX_DURATION", opResponseTxDuration, noParam},
	{"COMMON_DURATION", opSpan, spanParam},
	{"UPSTREAM_HOST", opUpstreamHost, noParam},
	{"UPSTREAM_REMOTE_ADDRESS", opUpstreamHost, noParam},
	{"UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", opUpstreamHostIP, noParam},
	{"UPSTREAM_REMOTE_PORT", opUpstreamPort, noParam},
	{"UPSTREAM_CLUSTER", opUpstreamCluster, noParam},
	{"UPSTREAM_CLUSTER_RAW", opUpstreamClusterRaw, noParam},
	{"UPSTREAM_LOCAL_ADDRESS", opUpstreamLocal, noParam},
	{"UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", opUpstreamLocalIP, noParam},
	{"UPSTREAM_LOCAL_PORT", opUpstreamLocalPort, noParam},
	{"UPSTREAM_REQUEST_ATTEMPT_COUNT", opAttempts, noParam},
	{"DOWNSTREAM_LOCAL_ADDRESS", opDownstreamLocal, noParam},
	{"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", opDownstreamLocalIP, noParam},
	{"DOWNSTREAM_LOCAL_PORT", opDownstreamLocalPort, noParam},
	{"DOWNSTREAM_REMOTE_ADDRESS", opDownstreamRemote, noParam},
	{"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", opDownstreamRemoteIP, noParam},
	{"DOWNSTREAM_REMOTE_PORT", opDownstreamRemotePort, noParam},
	{"DOWNSTREAM_DIRECT_REMOTE_ADDRESS", opDirectRemote, noParam},
	{"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", opDirectRemoteIP, noParam},
	{"DOWNSTREAM_DIRECT_REMOTE_PORT", opDirectRemotePort, noParam},
	{"REQUESTED_SERVER_NAME", opServerName, noParam},
	{"ROUTE_NAME", opRouteName, noParam},
	{"DOWNSTREAM_PEER_CERT_V_START", opTLSTime, timeParam},
	{"DOWNSTREAM_PEER_CERT_V_END", opTLSTime, timeParam},
	{"GRPC_STATUS", opGRPCStatus, grpcParam},
	{"GRPC_STATUS_NUMBER", opGRPCStatusNumber, noParam},
	{"DYNAMIC_METADATA", opMetadata, metadataParam},
	{"TRACE_ID", opTraceID, noParam},
	{"SPAN_ID", opSpanID, noParam},
	{"HOSTNAME", opConstant, noParam},
	{"ENVIRONMENT", opConstant, environmentParam},
	// There are no objects of filter state, so that these are what Envoy writes of
	// one that isn't there.
	{"FILTER_STATE", opNothing, stateParam},
	{"UPSTREAM_FILTER_STATE", opNothing, stateParam},
	{"REQ_WITHOUT_QUERY", opRequestFieldNoQuery, fieldParam},
}

// compileEnv is what a format is compiled with.
type compileEnv struct {
	hostname string
	getenv   func(string) (string, bool)
	// withoutQuery lets REQ_WITHOUT_QUERY be used: its formatter extension
	// is configured.
	withoutQuery bool
}

func newCompileEnv() *compileEnv {
	host, err := os.Hostname()
	if err != nil {
		host = "-"
	}
	return &compileEnv{hostname: host, getenv: os.LookupEnv}
}

// findOperator finds an operator by its name; nil if there is none.
func findOperator(name string) *operator {
	if i := slices.IndexFunc(operators[:], func(o operator) bool { return o.name == name }); i >= 0 {
		return &operators[i]
	}
	if http.LookupTLSFact(name) != http.TLSNoFact {
		return &operator{name, opTLS, noParam}
	}
	return nil
}

func compileCall(c call, env *compileEnv) (segment, error) {
	o := findOperator(c.name)
	if o == nil {
		return segment{}, fmt.Errorf("unknown operator %%%s%%", c.name)
	}
	if o.op == opRequestFieldNoQuery && !env.withoutQuery {
		return segment{}, fmt.Errorf("%%%s%% needs the extension envoy.formatter.req_without_query in formatters", c.name)
	}
	if c.hasParam && o.param == noParam {
		return segment{}, fmt.Errorf("%%%s%% takes no parameter", c.name)
	}
	if c.limit > 0 && o.param != fieldParam && o.param != stateParam && o.param != metadataParam {
		return segment{}, fmt.Errorf("%%%s%% takes no length", c.name)
	}
	s := segment{op: o.op, limit: c.limit, fact: http.LookupTLSFact(c.name)}
	if err := s.setParam(c, o.param, env); err != nil {
		return segment{}, fmt.Errorf("%%%s(%s)%%: %w", c.name, c.param, err)
	}
	return s, nil
}

func (s *segment) setParam(c call, p param, env *compileEnv) (err error) {
	switch p {
	case fieldParam:
		return s.parseFields(c.param)
	case timeParam:
		local := strings.HasSuffix(c.name, "_LOCAL")
		format := strings.ReplaceAll(c.param, "\n", "")
		if format == "" {
			format = defaultTime
			if local {
				format = defaultLocal
			}
		}
		s.time, err = compileTime(format, local)
		return err
	case spanParam:
		s.span, err = parseSpan(c.param)
		return err
	case grpcParam:
		switch c.param {
		case "", "CAMEL_STRING":
		case "SNAKE_STRING":
			s.snake = true
		case "NUMBER":
			s.op = opGRPCStatusNumber
		default:
			return fmt.Errorf("must be CAMEL_STRING, SNAKE_STRING or NUMBER")
		}
	case detailsParam:
		s.spaces = c.param == "ALLOW_WHITESPACES"
	case metadataParam:
		s.data, err = http.ParseMetadataPath(c.param)
		return err
	case environmentParam:
		value, ok := env.getenv(c.param)
		if s.lit = value; !ok {
			s.lit = "-"
		}
	case stateParam:
		if key, _, _ := strings.Cut(c.param, ":"); key == "" {
			return fmt.Errorf("needs the name of an object")
		}
	case noParam:
		s.lit = env.hostname // of the one constant without a parameter
	}
	return nil
}
