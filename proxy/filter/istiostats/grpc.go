// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"strconv"

	"pillion/proxy/http"
)

// grpcResult is a gRPC status code, or one of the two below.
type grpcResult int

const (
	grpcNone    grpcResult = -2 // no status came: the label is empty
	grpcInvalid grpcResult = -1 // not a code that gRPC knows; Envoy shows -1
	grpcMax     grpcResult = 16
)

// String returns the value of the label.
func (g grpcResult) String() string {
	if g == grpcNone {
		return ""
	}
	return strconv.Itoa(int(g))
}

// isGRPC reports whether a request is one of gRPC, by its content type as
// Envoy does (source/common/grpc/common.cc): application/grpc or
// application/grpc+something.
func isGRPC(h *http.RequestHead) bool {
	const grpc = "application/grpc"
	v, ok := h.Fields.Get(http.HeaderContentType)
	if !ok || len(v) < len(grpc) || string(v[:len(grpc)]) != grpc {
		return false
	}
	return len(v) == len(grpc) || v[len(grpc)] == '+'
}

// grpcStatus returns the status of a gRPC request: that of the trailers, of
// the head when there was nothing but trailers, or what gRPC makes of an HTTP
// error. A 200 without a status has none, since it may have broken off.
func grpcStatus(ex *http.Exchange) grpcResult {
	if ex.RespTrailers != nil {
		if v, ok := ex.RespTrailers.Get(http.HeaderGRPCStatus); ok {
			return parseGRPCStatus(v)
		}
	}
	if v, ok := ex.Resp.Fields.Get(http.HeaderGRPCStatus); ok {
		return parseGRPCStatus(v)
	}
	return grpcOfHTTP(ex.Resp.Status)
}

func parseGRPCStatus(v []byte) grpcResult {
	if len(v) == 0 || len(v) > 2 {
		return grpcInvalid
	}
	n := grpcResult(0)
	for _, c := range v {
		if c < '0' || c > '9' {
			return grpcInvalid
		}
		n = n*10 + grpcResult(c-'0')
	}
	if n > grpcMax {
		return grpcInvalid
	}
	return n
}

// grpcOfHTTP maps an HTTP status as gRPC's clients do
// (grpc/grpc: doc/http-grpc-status-mapping.md).
func grpcOfHTTP(status int) grpcResult {
	switch status {
	case 0, 200:
		return grpcNone
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}
