// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
)

// Kind tells what a failed handshake failed by; each kind has a counter.
type Kind uint8

// The kinds.
const (
	KindProtocol Kind = iota // the peer spoke TLS wrongly, not at all, or refused us
	KindNotReady             // a secret of ours has not come yet
	KindNoCert               // the peer had to show a certificate and did not
	KindVerify               // the peer's chain leads nowhere, or is out of its time, or revoked
	KindSAN                  // the peer is somebody else
	KindHash                 // the peer's certificate is not among the pinned ones
	KindTimeout              // the handshake's time was over, or the connection ended under it
)

// Error is why a handshake failed. Its text is fit for
// %DOWNSTREAM_TRANSPORT_FAILURE_REASON% and its upstream twin, in Envoy's
// words where it has some (source/common/tls/ssl_socket.cc, cert_validator).
type Error struct {
	Kind   Kind
	Reason string
	Err    error // the cause; may be nil
}

// Error returns the reason between the marks that Envoy puts around it.
func (e *Error) Error() string { return "TLS_error:|" + e.Reason + ":TLS_error_end" }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func verifyError(kind Kind, reason string) *Error {
	return &Error{Kind: kind, Reason: "SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: " + reason}
}

func chainError(reason string) *Error {
	return verifyError(KindVerify, "X509_verify_cert: certificate verification error: "+reason)
}

// errNotReady is Envoy's NotReadySslSocket.
func errNotReady(name string) *Error {
	return &Error{Kind: KindNotReady, Reason: "Secret is not supplied by SDS (" + name + ")"}
}

// reasons are Go's words for what OpenSSL has a name for. The first one that
// an error's text contains holds.
var reasons = []struct{ text, name string }{
	{"client didn't provide a certificate", "PEER_DID_NOT_RETURN_A_CERTIFICATE"},
	{"first record does not look like a TLS handshake", "WRONG_VERSION_NUMBER"},
	{"unsupported SSLv2 handshake received", "UNSUPPORTED_PROTOCOL"},
	{"client offered only unsupported versions", "UNSUPPORTED_PROTOCOL"},
	{"protocol version not supported", "TLSV1_ALERT_PROTOCOL_VERSION"},
	{"no cipher suite supported by both", "NO_SHARED_CIPHER"},
	{"no supported elliptic curves", "NO_SHARED_GROUP"},
	{"remote error: tls: unknown certificate authority", "TLSV1_ALERT_UNKNOWN_CA"},
	{"remote error: tls: bad certificate", "SSLV3_ALERT_BAD_CERTIFICATE"},
	{"remote error: tls: certificate required", "TLSV1_ALERT_CERTIFICATE_REQUIRED"},
	{"remote error: tls: expired certificate", "SSLV3_ALERT_CERTIFICATE_EXPIRED"},
	{"remote error: tls: revoked certificate", "SSLV3_ALERT_CERTIFICATE_REVOKED"},
	{"remote error: tls: unknown certificate", "SSLV3_ALERT_CERTIFICATE_UNKNOWN"},
	{"remote error: tls: handshake failure", "SSLV3_ALERT_HANDSHAKE_FAILURE"},
	{"remote error: tls: no application protocol", "TLSV1_ALERT_NO_APPLICATION_PROTOCOL"},
	{"server selected unadvertised ALPN protocol", "INVALID_ALPN_PROTOCOL"},
	{"bad record MAC", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"},
	{"failed to parse", "CANNOT_PARSE_LEAF_CERT"},
	{"oversized record received", "ENCRYPTED_LENGTH_TOO_LONG"},
	{"handshake message of length", "EXCESSIVE_MESSAGE_SIZE"},
}

// handshakeError makes an Error of what crypto/tls returned.
func handshakeError(ctx context.Context, err error) *Error {
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	if ctx.Err() != nil {
		return &Error{Kind: KindTimeout, Reason: "handshake timed out or was given up", Err: context.Cause(ctx)}
	}
	text := err.Error()
	for _, r := range reasons {
		if strings.Contains(text, r.text) {
			e := &Error{Kind: KindProtocol, Reason: "SSL routines:OPENSSL_internal:" + r.name, Err: err}
			switch r.name {
			case "PEER_DID_NOT_RETURN_A_CERTIFICATE":
				e.Kind = KindNoCert
			case "CANNOT_PARSE_LEAF_CERT":
				e.Kind = KindVerify
			}
			return e
		}
	}
	var opErr *net.OpError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe), errors.Is(err, net.ErrClosed):
		return &Error{Kind: KindTimeout, Reason: "connection closed during the handshake", Err: err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{Kind: KindTimeout, Reason: "handshake timed out or was given up", Err: err}
	case errors.As(err, &opErr):
		if _, alert := errors.AsType[stdtls.AlertError](err); !alert && !strings.HasPrefix(text, "remote error") {
			return &Error{Kind: KindTimeout, Reason: "connection broke during the handshake: " + text, Err: err}
		}
	}
	return &Error{Kind: KindProtocol, Reason: text, Err: err}
}
