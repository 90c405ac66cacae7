// SPDX-License-Identifier: Apache-2.0

package istioca

import (
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	capb "istio.io/api/security/v1alpha1"

	"pillion/proxy/tls/renew"
)

// maxAnswer bounds the CA's answer.
const maxAnswer = 1 << 20

// ask makes a key and has it signed once. Certificates are rare, so each
// request has a connection of its own, made by the roots as they are then.
func (s *Source) ask(ctx context.Context) (*answer, error) {
	req, err := newRequest(s.o.Key, s.o.ID, s.o.PKCS8)
	if err != nil {
		return nil, renew.Because(renew.Local, err)
	}
	ctx, token, err := s.metadata(ctx)
	if err != nil {
		return nil, renew.Because(renew.Local, err)
	}
	conn, err := s.connect()
	if err != nil {
		return nil, renew.Because(renew.Local, err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	msg := &capb.IstioCertificateRequest{Csr: string(req.csr), ValidityDuration: int64(s.o.TTL / time.Second)}
	if s.o.CertSigner != "" {
		msg.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"CertSigner": structpb.NewStringValue(s.o.CertSigner)}}
	}
	resp, err := capb.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, msg)
	if err != nil {
		if !token && renew.ReasonOf(err) == renew.Denied {
			return nil, renew.Because(renew.Denied, fmt.Errorf("%w (no token was sent: there is none in %q)", err, s.o.TokenFile))
		}
		return nil, err
	}
	return readAnswer(resp.GetCertChain(), req.key, s.o.ID, time.Now())
}

// metadata adds what the CA knows the caller by, and reports whether there is
// a token among it.
func (s *Source) metadata(ctx context.Context) (_ context.Context, token bool, err error) {
	text, err := readToken(s.o.TokenFile)
	if err != nil {
		return ctx, false, err
	}
	if text != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+text)
	}
	if s.o.ClusterID != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "clusterid", s.o.ClusterID)
	}
	for k, v := range s.o.Headers {
		ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(k), v)
	}
	return ctx, text != "", nil
}

// readToken reads the bearer token. A file that isn't there means that there
// is none: the CA may know the caller otherwise.
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

func (s *Source) connect() (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if !s.o.Plaintext {
		cfg := &stdtls.Config{MinVersion: stdtls.VersionTLS12, ServerName: s.o.ServerName}
		if s.o.RootFile != "" {
			text, err := os.ReadFile(s.o.RootFile)
			if err != nil {
				return nil, fmt.Errorf("the CA's roots: %w", err)
			}
			cfg.RootCAs = x509.NewCertPool()
			if !cfg.RootCAs.AppendCertsFromPEM(text) {
				return nil, fmt.Errorf("the CA's roots: %s holds no certificate", s.o.RootFile)
			}
		}
		creds = credentials.NewTLS(cfg)
	}
	dial := s.o.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
		}
	}
	return grpc.NewClient("passthrough:///"+s.o.Addr, grpc.WithTransportCredentials(creds), grpc.WithContextDialer(dial),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
}
