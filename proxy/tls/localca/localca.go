// SPDX-License-Identifier: Apache-2.0

// Package localca is a certificate authority for a laptop: a root, and
// certificates for workloads in the form that a mesh gives them. Its root's
// key lies in a file, so it is for trying things out and for tests.
package localca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// How long certificates are valid.
const (
	RootLifetime = 10 * 365 * 24 * time.Hour
	LeafLifetime = 365 * 24 * time.Hour
)

// Names of files, those of Istio's file-mounted certificates.
const (
	ChainFile   = "cert-chain.pem"
	KeyFile     = "key.pem"
	RootFile    = "root-cert.pem"
	rootKeyFile = "root-key.pem"
)

// CA signs certificates for the workloads of one trust domain. Immutable.
type CA struct {
	trustDomain string
	cert        *x509.Certificate
	key         *ecdsa.PrivateKey
	root        []byte // PEM
}

// Leaf is a certificate with its key, PEM.
type Leaf struct{ Chain, Key []byte }

// New makes a CA with a key of its own.
func New(trustDomain string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	td, err := url.Parse("spiffe://" + trustDomain)
	if err != nil || td.Host != trustDomain || trustDomain == "" {
		return nil, fmt.Errorf("%q is no trust domain; it looks like cluster.local", trustDomain)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{trustDomain}, CommonName: "Pillion local CA"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(RootLifetime), URIs: []*url.URL{td},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{trustDomain: trustDomain, cert: cert, key: key, root: encode("CERTIFICATE", der)}, nil
}

// Root returns the root certificate, PEM.
func (ca *CA) Root() []byte { return ca.root }

// TrustDomain returns the trust domain that the CA signs for.
func (ca *CA) TrustDomain() string { return ca.trustDomain }

// ID returns the SPIFFE ID of a workload.
func (ca *CA) ID(namespace, serviceAccount string) string {
	return "spiffe://" + ca.trustDomain + "/ns/" + namespace + "/sa/" + serviceAccount
}

// Issue makes a key and a certificate for a workload, good for both sides of
// a connection.
func (ca *CA) Issue(namespace, serviceAccount string) (Leaf, error) {
	id, err := url.Parse(ca.ID(namespace, serviceAccount))
	if err != nil {
		return Leaf{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Leaf{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return Leaf{}, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-time.Minute), NotAfter: earlier(now.Add(LeafLifetime), ca.cert.NotAfter), URIs: []*url.URL{id},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		return Leaf{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Leaf{}, err
	}
	return Leaf{Chain: encode("CERTIFICATE", der), Key: encode("PRIVATE KEY", keyDER)}, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// newSerial returns 127 random bits (RFC 5280 section 4.1.2.2).
func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Open returns the CA in a folder, and makes one there if there is none.
// trustDomain has to be that of a CA that is there; empty: whatever it is.
func Open(dir, trustDomain string) (ca *CA, made bool, err error) {
	ca, err = load(dir)
	if errors.Is(err, os.ErrNotExist) {
		if trustDomain == "" {
			trustDomain = "cluster.local"
		}
		if ca, err = New(trustDomain); err != nil {
			return nil, false, err
		}
		return ca, true, ca.save(dir)
	}
	if err != nil {
		return nil, false, err
	}
	if trustDomain != "" && trustDomain != ca.trustDomain {
		return nil, false, fmt.Errorf("%s holds a CA for the trust domain %s, not for %s; choose another folder, or remove it to begin anew", dir, ca.trustDomain, trustDomain)
	}
	return ca, false, nil
}

func load(dir string) (*CA, error) {
	root, err := os.ReadFile(filepath.Join(dir, RootFile))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(dir, rootKeyFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s has a %s but not its key, %s: it was not made by this command, so nothing can be signed with it", dir, RootFile, rootKeyFile)
	}
	if err != nil {
		return nil, err
	}
	ca, err := parse(root, key)
	if err != nil {
		return nil, fmt.Errorf("the CA in %s: %w", dir, err)
	}
	return ca, nil
}

func parse(root, key []byte) (*CA, error) {
	block, _ := pem.Decode(root)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", RootFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", RootFile, err)
	}
	if block, _ = pem.Decode(key); block == nil {
		return nil, fmt.Errorf("%s is not PEM", rootKeyFile)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rootKeyFile, err)
	}
	signer, ok := any.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s", rootKeyFile, RootFile)
	}
	if time.Now().After(cert.NotAfter) {
		return nil, fmt.Errorf("it has expired at %s; remove the folder to begin anew", cert.NotAfter.Format(time.RFC3339))
	}
	if len(cert.URIs) != 1 {
		return nil, fmt.Errorf("%s names no trust domain", RootFile)
	}
	return &CA{trustDomain: cert.URIs[0].Host, cert: cert, key: signer, root: encode("CERTIFICATE", cert.Raw)}, nil
}

func (ca *CA) save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return err
	}
	// The root comes last: a folder with a root is a whole one.
	if err := writeFile(filepath.Join(dir, rootKeyFile), encode("PRIVATE KEY", key), 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, RootFile), ca.root, 0o644)
}

// Write puts a workload's files into the folder dir/namespace/account and
// returns its name. Each file is replaced at once; whoever reads between two
// of them sees a key that isn't the certificate's, and tries again.
func (ca *CA) Write(dir, namespace, serviceAccount string) (string, error) {
	leaf, err := ca.Issue(namespace, serviceAccount)
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, namespace, serviceAccount)
	if err := os.MkdirAll(out, 0o700); err != nil {
		return "", err
	}
	for _, f := range []struct {
		name string
		text []byte
		mode os.FileMode
	}{{RootFile, ca.root, 0o644}, {KeyFile, leaf.Key, 0o600}, {ChainFile, leaf.Chain, 0o644}} {
		if err := writeFile(filepath.Join(out, f.name), f.text, f.mode); err != nil {
			return "", err
		}
	}
	return out, nil
}

// writeFile replaces a file at once.
func writeFile(path string, text []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	sum := sha256.Sum256(text)
	tmp := fmt.Sprintf("%s.%x.tmp", path, sum[:4])
	if err := os.WriteFile(tmp, text, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
