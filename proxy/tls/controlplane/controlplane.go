// SPDX-License-Identifier: Apache-2.0

// Package controlplane reaches the gRPC servers of a mesh's control plane: its
// discovery service and its CA. They are no workloads: they are known by a name
// of DNS, and know their callers by a bearer token.
package controlplane

import (
	"cmp"
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// dialTimeout is how long a connection may take to be made (pkg/istio-agent/xds_proxy.go
// of Istio has the same).
const dialTimeout = 5 * time.Second

// Server says where a server is, how it is known and how it knows the caller.
// Immutable once it is used.
type Server struct {
	// Address is HOST:PORT or unix:PATH.
	Address string
	// Plaintext speaks to it without TLS. A token is sent all the same, as
	// Istio's agent does; who wants none leaves TokenFile empty.
	Plaintext bool
	// ServerName is what its certificate must be for; empty: the host of Address.
	ServerName string
	// RootFile holds what its certificate must lead to; empty: the machine's own
	// anchors. It is read anew for each connection, and TokenFile, the bearer
	// token, for each call. A token that isn't there is left out: the server may
	// know the caller otherwise.
	RootFile, TokenFile string
	// ClusterID and Headers are metadata of each call.
	ClusterID string
	Headers   map[string]string
	// Dial makes a connection; nil: one of Address.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Check says what is wrong with the settings, as far as they themselves tell.
func (s *Server) Check() error {
	if path, ok := strings.CutPrefix(s.Address, "unix:"); ok {
		if path == "" {
			return errors.New("the address \"unix:\" names no socket")
		}
		if !s.Plaintext && s.ServerName == "" {
			return fmt.Errorf("the server at %s needs a name that its certificate is for, or plaintext", s.Address)
		}
	} else if host, port, err := net.SplitHostPort(s.Address); err != nil || host == "" || port == "" {
		return fmt.Errorf("the address %q is neither HOST:PORT nor unix:PATH", s.Address)
	}
	// gRPC would refuse these at each call.
	for k, v := range s.Headers {
		if !validKey(strings.ToLower(k)) {
			return fmt.Errorf("the header %q can't be sent: a name of gRPC metadata is made of letters, digits, '-', '_' and '.', and doesn't begin with \"grpc-\"", k)
		}
		if !strings.HasSuffix(strings.ToLower(k), "-bin") && !printable(v) {
			return fmt.Errorf("the header %q can't be sent: its value isn't printable ASCII", k)
		}
	}
	if !printable(s.ClusterID) {
		return fmt.Errorf("the cluster id %q isn't printable ASCII", s.ClusterID)
	}
	return nil
}

func validKey(k string) bool {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
	}
	return k != "" && !strings.HasPrefix(k, "grpc-") && strings.IndexFunc(k, func(r rune) bool { return !ok(r) }) < 0
}

func printable(v string) bool {
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return true
}

// Name is what the server's certificate has to be for.
func (s *Server) Name() string {
	if s.ServerName != "" || strings.HasPrefix(s.Address, "unix:") {
		return s.ServerName
	}
	host, _, _ := net.SplitHostPort(s.Address)
	return host
}

// Connect returns a connection to the server, by the roots as they are now. It
// is made when it is first used.
func (s *Server) Connect(options ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds, err := s.credentials()
	if err != nil {
		return nil, err
	}
	network, addr := "tcp", s.Address
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", strings.TrimPrefix(path, "//")
		// A path is no authority.
		options = append(options, grpc.WithAuthority(cmp.Or(s.ServerName, "localhost")))
	}
	dial := s.Dial
	if dial == nil {
		dial = func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, addr)
		}
	}
	// A dialer of our own resolves the name at each connection, and asks no
	// HTTP proxy of the environment.
	return grpc.NewClient("passthrough:///"+s.Address, append(options, grpc.WithTransportCredentials(creds), grpc.WithContextDialer(dial),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: dialTimeout}),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry())...)
}

func (s *Server) credentials() (credentials.TransportCredentials, error) {
	if s.Plaintext {
		return insecure.NewCredentials(), nil
	}
	cfg := &stdtls.Config{MinVersion: stdtls.VersionTLS12, ServerName: s.Name()}
	if s.RootFile != "" {
		text, err := os.ReadFile(s.RootFile)
		if err != nil {
			return nil, fmt.Errorf("the roots of %s: %w", s.Address, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("the roots of %s: %s holds no certificate", s.Address, s.RootFile)
		}
	}
	return credentials.NewTLS(cfg), nil
}

// Metadata adds what the server knows the caller by to a call, and reports
// whether there is a token among it.
func (s *Server) Metadata(ctx context.Context) (_ context.Context, token bool, err error) {
	text, err := readToken(s.TokenFile)
	if err != nil {
		return ctx, false, err
	}
	if text != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+text)
	}
	if s.ClusterID != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "clusterid", s.ClusterID)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Headers)) {
		ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(k), s.Headers[k])
	}
	return ctx, text != "", nil
}

// readToken reads the bearer token, "" if there is none.
func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	text := strings.TrimSpace(string(raw))
	for i := range len(text) {
		if text[i] <= ' ' || text[i] >= 0x7f {
			return "", fmt.Errorf("token: %s holds no token: octet %d can't be part of one", file, i)
		}
	}
	return text, nil
}
