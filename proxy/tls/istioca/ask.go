// SPDX-License-Identifier: Apache-2.0

package istioca

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
	capb "istio.io/api/security/v1alpha1"

	"pillion/proxy/tls/renew"
)

// maxAnswer bounds the CA's answer.
const maxAnswer = 1 << 20

// Requests are those that were made of a CA, the failed ones among them; Took is how long
// all of them took together.
type Requests struct {
	All, Failed uint64
	Took        time.Duration
}

// Requests returns what was asked so far.
func (s *Source) Requests() Requests {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func (s *Source) count(took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests.All++
	s.requests.Took += took
	if err != nil {
		s.requests.Failed++
	}
}

// ask makes a key and has it signed once. Certificates are rare, so each
// request has a connection of its own, made by the roots as they are then.
func (s *Source) ask(ctx context.Context) (*answer, error) {
	req, err := newRequest(s.o.Key, s.o.ID, s.o.PKCS8)
	if err != nil {
		return nil, renew.Because(renew.Local, err)
	}
	ctx, token, err := s.server.Metadata(ctx)
	if err != nil {
		return nil, renew.Because(renew.Local, err)
	}
	conn, err := s.server.Connect(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
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
	begun := time.Now()
	var got *answer
	resp, err := capb.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, msg)
	if err == nil {
		got, err = readAnswer(resp.GetCertChain(), req.key, s.o.ID, time.Now())
	}
	s.count(time.Since(begun), err)
	if err != nil && !token && renew.ReasonOf(err) == renew.Denied {
		err = renew.Because(renew.Denied, fmt.Errorf("%w (no token was sent: there is none in %q)", err, s.o.TokenFile))
	}
	return got, err
}
