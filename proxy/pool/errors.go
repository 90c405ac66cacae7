// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"

	"pillion/proxy/http"
	"pillion/proxy/tls"
)

// Failures to get a connection. Words and flags are Envoy's
// (source/common/http/utility.cc, resetReasonToString, and
// source/common/router/router.cc).
const (
	bodyPrefix   = "upstream connect error or disconnect/reset before headers. reset reason: "
	detailPrefix = "upstream_reset_before_response_started{"
)

var (
	errOverflow = &http.Error{Side: http.SideLocal, Kind: http.KindOverflow, Retry: http.RetryByPolicy, Status: 503,
		Flag: http.FlagUpstreamOverflow, Detail: detailPrefix + "overflow}", Body: bodyPrefix + "overflow", GRPC: 14}
	errConnectTimeout = &http.Error{Side: http.SideUpstream, Kind: http.KindConnectTimeout, Retry: http.RetryByPolicy, Status: 503,
		Flag: http.FlagUpstreamConnFailure, Detail: detailPrefix + "connection_timeout}", Body: bodyPrefix + "connection timeout", GRPC: 14}
	errLate = &http.Error{Side: http.SideUpstream, Kind: http.KindTimeout, Retry: http.RetryByPolicy, Status: 504,
		Flag: http.FlagUpstreamRequestTimeout, Detail: "response_timeout", Body: "upstream request timeout", GRPC: 4}
	errCancelled = &http.Error{Side: http.SideDownstream, Kind: http.KindClientGone, Retry: http.RetryNever,
		Flag: http.FlagDownstreamConnTermination, Detail: "downstream_remote_disconnect", Close: true}
)

// errResolve is the failure to find an address for a host's name.
func errResolve(reason string) *http.Error {
	return &http.Error{Side: http.SideUpstream, Kind: http.KindResolve, Retry: http.RetryByPolicy, Status: 503,
		Flag: http.FlagDNSFailure, Detail: "dns_resolution_failure{" + underscored(reason) + "}",
		Body: "DNS resolution failure", Transport: reason, GRPC: 14}
}

func underscored(s string) string { return strings.ReplaceAll(s, " ", "_") }

// ResolveError is what Target.Resolve returns when a name has no usable
// address.
type ResolveError struct {
	// Reason says why, for the access log.
	Reason string
}

// Error returns the reason.
func (e *ResolveError) Error() string { return e.Reason }

// connectError maps what net.Dialer returns. Cancellation is the caller's to
// tell from the expiry of a deadline.
func connectError(err error) *http.Error {
	var re *ResolveError
	if errors.As(err, &re) {
		return errResolve(re.Reason)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return errConnectTimeout
	}
	var sealed *tls.Error
	if errors.As(err, &sealed) {
		return connectFailure("remote connection failure", sealed.Error())
	}
	side, reason := "remote connection failure", "delayed connect error: "+systemReason(err)
	var op *net.OpError
	var sys *os.SyscallError
	if errors.As(err, &op) && errors.As(op.Err, &sys) {
		switch {
		case sys.Syscall == "bind":
			side, reason = "local connection failure", "failed to bind to "+addrText(op.Source)+": "+systemReason(err)
		case immediate(sys.Err):
			reason = "immediate connect error: " + systemReason(err)
		}
	}
	return connectFailure(side, reason)
}

func connectFailure(side, reason string) *http.Error {
	return &http.Error{Side: http.SideUpstream, Kind: http.KindConnectFailure, Retry: http.RetryByPolicy, Status: 503,
		Flag:   http.FlagUpstreamConnFailure,
		Detail: detailPrefix + underscored(side) + "|" + underscored(reason) + "}",
		Body:   bodyPrefix + side, Transport: reason, GRPC: 14}
}

func addrText(a net.Addr) string {
	if a == nil {
		return "the local address"
	}
	return a.String()
}

// immediate reports whether connect(2) itself fails with this number; others
// come as the result of a connection attempt.
func immediate(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EACCES) ||
		errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EAFNOSUPPORT) ||
		errors.Is(err, syscall.ENOENT)
}

// systemReason is the text of the error number with a capital, which is how
// the C library and so Envoy write it.
func systemReason(err error) string {
	s := err.Error()
	var no syscall.Errno
	if errors.As(err, &no) {
		s = no.Error()
	}
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
