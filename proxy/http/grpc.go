// SPDX-License-Identifier: Apache-2.0

package http

import (
	"strconv"
	"time"
)

// GRPCCode is a gRPC status code.
type GRPCCode int

// The codes that the proxy gives or looks for (google.rpc.Code), and what
// stands for a grpc-status that is none.
const (
	GRPCInvalid           GRPCCode = -1
	GRPCOK                GRPCCode = 0
	GRPCCancelled         GRPCCode = 1
	GRPCUnknown           GRPCCode = 2
	GRPCInvalidArgument   GRPCCode = 3
	GRPCDeadlineExceeded  GRPCCode = 4
	GRPCNotFound          GRPCCode = 5
	GRPCAlreadyExists     GRPCCode = 6
	GRPCPermissionDenied  GRPCCode = 7
	GRPCResourceExhausted GRPCCode = 8
	GRPCFailedPrecond     GRPCCode = 9
	GRPCAborted           GRPCCode = 10
	GRPCOutOfRange        GRPCCode = 11
	GRPCUnimplemented     GRPCCode = 12
	GRPCInternal          GRPCCode = 13
	GRPCUnavailable       GRPCCode = 14
	GRPCDataLoss          GRPCCode = 15
	GRPCUnauthenticated   GRPCCode = 16

	maxGRPCCode = GRPCUnauthenticated
)

// IsGRPC reports whether a request is one of gRPC, by its content type:
// application/grpc, alone or with a suffix such as +proto (Envoy:
// Grpc::Common::hasGrpcContentType). application/grpc-web is not.
func (h *RequestHead) IsGRPC() bool { return hasGRPCType(&h.Fields) }

// IsGRPC reports whether a response can hold gRPC messages (Envoy:
// Grpc::Common::isGrpcResponseHeaders). With end nothing follows the head,
// and it is its grpc-status that tells.
func (h *ResponseHead) IsGRPC(end bool) bool {
	if end {
		return h.Fields.Has(HeaderGRPCStatus)
	}
	return h.Status == 200 && hasGRPCType(&h.Fields)
}

func hasGRPCType(f *Fields) bool {
	const grpc = "application/grpc"
	v, ok := f.Get(HeaderContentType)
	if !ok || len(v) < len(grpc) || string(v[:len(grpc)]) != grpc {
		return false
	}
	return len(v) == len(grpc) || v[len(grpc)] == '+'
}

// GRPCStatus returns the grpc-status among the fields of a response's head or
// trailers: GRPCInvalid when it is not a code that gRPC knows, false when
// there is none or it is empty.
func (f *Fields) GRPCStatus() (GRPCCode, bool) {
	v, ok := f.Get(HeaderGRPCStatus)
	if !ok || len(v) == 0 {
		return 0, false
	}
	return parseGRPCStatus(v), true
}

// parseGRPCStatus takes leading zeros, as Envoy does (Grpc::Common::getGrpcStatus).
func parseGRPCStatus(v []byte) GRPCCode {
	n := GRPCCode(0)
	for _, c := range v {
		if c < '0' || c > '9' {
			return GRPCInvalid
		}
		if n = n*10 + GRPCCode(c-'0'); n > maxGRPCCode {
			return GRPCInvalid
		}
	}
	return n
}

// AppendGRPCStatus appends a code as the value of grpc-status.
func AppendGRPCStatus(dst []byte, code GRPCCode) []byte {
	return strconv.AppendInt(dst, int64(code), 10)
}

// GRPCOfHTTP is the code that stands for an HTTP status which is not gRPC's
// (grpc/grpc: doc/http-grpc-status-mapping.md).
func GRPCOfHTTP(status int) GRPCCode {
	switch status {
	case 400:
		return GRPCInternal
	case 401:
		return GRPCUnauthenticated
	case 403:
		return GRPCPermissionDenied
	case 404:
		return GRPCUnimplemented
	case 429, 502, 503, 504:
		return GRPCUnavailable
	}
	return GRPCUnknown
}

var httpOfGRPC = [maxGRPCCode + 1]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}

// HTTP returns the HTTP status that says the same as a code (google.rpc.Code;
// Envoy: Grpc::Utility::grpcToHttpStatus).
func (c GRPCCode) HTTP() int {
	if c < 0 || c > maxGRPCCode {
		return 500
	}
	return httpOfGRPC[c]
}

// AppendGRPCMessage appends s as the value of grpc-message: what isn't
// printable ASCII is percent-encoded, and so is "%" (gRPC over HTTP/2,
// "Status-Message").
func AppendGRPCMessage(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

// maxGRPCTimeout is the largest number that grpc-timeout can hold.
const maxGRPCTimeout = 99999999

// GRPCTimeout returns the time that the client gives a gRPC request: at most
// eight digits and a unit (gRPC over HTTP/2, "Timeout"). It is false when
// there is no grpc-timeout, or none of that form.
func (h *RequestHead) GRPCTimeout() (time.Duration, bool) {
	v, ok := h.Fields.Get(HeaderGRPCTimeout)
	if !ok {
		return 0, false
	}
	return parseGRPCTimeout(v)
}

func parseGRPCTimeout(v []byte) (time.Duration, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	unit := grpcTimeoutUnit(v[len(v)-1])
	if unit == 0 {
		return 0, false
	}
	var n time.Duration
	for _, c := range v[:len(v)-1] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + time.Duration(c-'0')
	}
	const longest = 1<<63 - 1
	if n > longest/unit {
		return longest, true
	}
	return n * unit, true
}

func grpcTimeoutUnit(c byte) time.Duration {
	switch c {
	case 'H':
		return time.Hour
	case 'M':
		return time.Minute
	case 'S':
		return time.Second
	case 'm':
		return time.Millisecond
	case 'u':
		return time.Microsecond
	case 'n':
		return time.Nanosecond
	}
	return 0
}

// AppendGRPCTimeout appends d as the value of grpc-timeout: in milliseconds
// where eight digits suffice, rounded up so that what isn't over yet doesn't
// look so, else in the next larger unit (Envoy: Grpc::Common::toGrpcTimeout).
func AppendGRPCTimeout(dst []byte, d time.Duration) []byte {
	n, unit := int64(d/time.Millisecond), byte('m')
	if d > 0 && d%time.Millisecond != 0 {
		n++
	}
	if n > maxGRPCTimeout {
		n, unit = n/1000, 'S'
	}
	if n > maxGRPCTimeout {
		n, unit = n/60, 'M'
	}
	if n > maxGRPCTimeout {
		n, unit = n/60, 'H'
	}
	return append(strconv.AppendInt(dst, max(n, 0), 10), unit)
}
