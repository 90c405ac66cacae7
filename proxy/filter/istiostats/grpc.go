// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"strconv"

	"pillion/proxy/http"
)

// grpcNone stands for no status: the label is empty.
const grpcNone http.GRPCCode = -2

// grpcLabel returns the value of the label; a code that gRPC doesn't know is
// -1, as with Envoy.
func grpcLabel(g http.GRPCCode) string {
	if g == grpcNone {
		return ""
	}
	return strconv.Itoa(int(g))
}

// grpcStatus returns the status of a gRPC request: that of the trailers, of
// the head when there was nothing but trailers, or what gRPC makes of HTTP's,
// which for a 200 that broke off is UNKNOWN (Envoy: Grpc::Common::getGrpcStatus).
func grpcStatus(ex *http.Exchange) http.GRPCCode {
	if ex.RespTrailers != nil {
		if code, ok := ex.RespTrailers.GRPCStatus(); ok {
			return code
		}
	}
	if code, ok := ex.Resp.Fields.GRPCStatus(); ok {
		return code
	}
	if ex.Resp.Status == 0 {
		return grpcNone
	}
	return http.GRPCOfHTTP(ex.Resp.Status)
}
