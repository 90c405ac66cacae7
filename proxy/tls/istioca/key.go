// SPDX-License-Identifier: Apache-2.0

package istioca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"pillion/proxy/tls"
)

// KeyKind is what keys are made.
type KeyKind uint8

// The kinds. RSA with 2048 bits is Istio's default.
const (
	RSA2048 KeyKind = iota
	RSA3072
	RSA4096
	P256
	P384
)

func (k KeyKind) generate() (crypto.Signer, error) {
	switch k {
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	return nil, fmt.Errorf("there is no kind of key with the number %d", k)
}

// request is a new key with the request to sign it.
type request struct {
	csr []byte // PEM
	key []byte // PEM
}

func newRequest(kind KeyKind, id string, pkcs8 bool) (*request, error) {
	key, err := kind.generate()
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(id)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key, pkcs8)
	return &request{csr: encode("CERTIFICATE REQUEST", der), key: keyPEM}, err
}

// encodeKey writes a key as PKCS#8, or in the older form of its kind, which
// some programs that read the output want.
func encodeKey(key crypto.Signer, pkcs8 bool) ([]byte, error) {
	if !pkcs8 {
		switch k := key.(type) {
		case *rsa.PrivateKey:
			return encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k)), nil
		case *ecdsa.PrivateKey:
			der, err := x509.MarshalECPrivateKey(k)
			return encode("EC PRIVATE KEY", der), err
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return encode("PRIVATE KEY", der), err
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// write puts an answer where other programs read it. Each file is replaced at
// once.
func (s *Source) write(got *answer) error {
	if err := os.MkdirAll(s.o.OutputDir, 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
		mode os.FileMode
	}{
		{"key.pem", got.key, 0o600},
		{"cert-chain.pem", got.chain, 0o644},
		{"root-cert.pem", got.roots, 0o644},
	} {
		if err := replaceFile(filepath.Join(s.o.OutputDir, f.name), f.text, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// recall serves what an earlier process of this workload has written, if it
// is good for as long as it takes to ask: while the CA is away, a proxy that is started
// again would otherwise have nothing to show.
func (s *Source) recall() {
	if s.o.OutputDir == "" {
		return
	}
	var texts [3][]byte
	for i, name := range []string{"key.pem", "cert-chain.pem", "root-cert.pem"} {
		var err error
		if texts[i], err = os.ReadFile(filepath.Join(s.o.OutputDir, name)); errors.Is(err, fs.ErrNotExist) {
			return
		} else if err != nil {
			s.o.Logger.Warn("the certificate that was written before is not used", "reason", err)
			return
		}
	}
	kept, err := readAnswer([]string{string(texts[1]), string(texts[2])}, texts[0], s.o.ID, time.Now().Add(callTimeout))
	if err == nil {
		err = s.o.Roots.SetAnchors(tls.Anchors{CA: kept.roots}, Name)
	}
	if err == nil {
		err = s.o.Certificate.SetKeyPair(tls.KeyPair{Chain: kept.chain, Key: kept.key}, s.o.ID, Name)
	}
	if err != nil {
		s.o.Logger.Warn("the certificate that was written before is not used", "folder", s.o.OutputDir, "reason", err)
		return
	}
	s.o.Logger.Info("the certificate that was written before is served until the CA answers", "folder", s.o.OutputDir, "expires", kept.expires)
}

func replaceFile(path string, text []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is gone if all went well
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
