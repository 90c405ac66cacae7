// SPDX-License-Identifier: Apache-2.0

// Package pki makes the certificates that all peers of a benchmark share: one CA, and
// one workload at either end of a connection, each with an ECDSA key on P-256.
//
// A certificate names its workload twice, since not every peer can check a SPIFFE ID:
// by a SPIFFE ID and by a DNS name.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"pillion/bench/mesh"
)

// TrustDomain is that of both workloads.
const TrustDomain = "cluster.local"

// Suite is the cipher suite that all connections have to settle on.
const Suite = stdtls.TLS_AES_128_GCM_SHA256

// Group is a key exchange.
type Group string

// The key exchanges that are measured.
const (
	X25519         Group = "X25519"
	X25519MLKEM768 Group = "X25519MLKEM768" // post-quantum
)

// curve is Go's number of the group.
func (g Group) curve() stdtls.CurveID {
	if g == X25519MLKEM768 {
		return stdtls.X25519MLKEM768
	}
	return stdtls.X25519
}

// Workload is one end of a connection. The files of a workload are in a folder of its
// own, under the names that Pillion takes them by.
type Workload struct {
	// Name is its service account.
	Name string `json:"name"`
	// Dir is the folder.
	Dir string `json:"dir"`
}

// ID is its SPIFFE ID.
func (w Workload) ID() string {
	return "spiffe://" + TrustDomain + "/ns/" + mesh.Namespace + "/sa/" + w.Name
}

// Host is its DNS name.
func (w Workload) Host() string { return w.Name + "." + mesh.Namespace + ".svc.cluster.local" }

// Chain is the file of the certificate; all files are PEM.
func (w Workload) Chain() string { return filepath.Join(w.Dir, "cert-chain.pem") }

// Key is the file of the key.
func (w Workload) Key() string { return filepath.Join(w.Dir, "key.pem") }

// CA is the file of the CA's certificate.
func (w Workload) CA() string { return filepath.Join(w.Dir, "root-cert.pem") }

// Both is the file with certificate and key in one, as HAProxy wants it.
func (w Workload) Both() string { return filepath.Join(w.Dir, "both.pem") }

// Set is what Make has made.
type Set struct {
	// Client and Server are the workloads at the ends of a connection.
	Client Workload `json:"client"`
	Server Workload `json:"server"`
}

// Make writes the files of a new CA's two workloads below dir.
func Make(dir string) (Set, error) {
	s := Set{
		Client: Workload{Name: "client", Dir: filepath.Join(dir, "client")},
		Server: Workload{Name: "server", Dir: filepath.Join(dir, "server")},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return s, err
	}
	ca := template(1)
	ca.Subject = pkix.Name{CommonName: "bench CA"}
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		return s, err
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for i, w := range []Workload{s.Client, s.Server} {
		if err := w.write(int64(i+2), ca, key, root); err != nil {
			return s, fmt.Errorf("certificate of %s: %w", w.Name, err)
		}
	}
	return s, nil
}

func template(serial int64) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
}

// write issues the workload's certificate and writes its files.
func (w Workload) write(serial int64, ca *x509.Certificate, caKey *ecdsa.PrivateKey, root []byte) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id, err := url.Parse(w.ID())
	if err != nil {
		return err
	}
	leaf := template(serial)
	leaf.URIs, leaf.DNSNames = []*url.URL{id}, []string{w.Host()}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	chainPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := os.MkdirAll(w.Dir, 0o700); err != nil {
		return err
	}
	for name, text := range map[string][]byte{
		w.Chain(): chainPEM, w.Key(): keyPEM, w.CA(): root, w.Both(): append(chainPEM, keyPEM...),
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// ClientConfig is a client's configuration towards the server of the set: TLS 1.3 with
// one key exchange, and the server's chain and DNS name checked.
func (s Set) ClientConfig(g Group) (*stdtls.Config, error) {
	c, roots, err := s.Client.config(g)
	if err == nil {
		c.RootCAs, c.ServerName = roots, s.Server.Host()
	}
	return c, err
}

// ServerConfig is a server's configuration that requires and verifies a client's
// certificate.
func (s Set) ServerConfig(g Group) (*stdtls.Config, error) {
	c, roots, err := s.Server.config(g)
	if err == nil {
		c.ClientCAs, c.ClientAuth = roots, stdtls.RequireAndVerifyClientCert
	}
	return c, err
}

func (w Workload) config(g Group) (*stdtls.Config, *x509.CertPool, error) {
	cert, err := stdtls.LoadX509KeyPair(w.Chain(), w.Key())
	if err != nil {
		return nil, nil, err
	}
	root, err := os.ReadFile(w.CA())
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(root) {
		return nil, nil, fmt.Errorf("%s: no certificate", w.CA())
	}
	return &stdtls.Config{
		Certificates: []stdtls.Certificate{cert}, MinVersion: stdtls.VersionTLS13,
		CurvePreferences: []stdtls.CurveID{g.curve()}, VerifyConnection: g.agreed,
	}, roots, nil
}

// agreed refuses a connection that is other than the comparison says.
func (g Group) agreed(cs stdtls.ConnectionState) error {
	if cs.CipherSuite != Suite {
		return fmt.Errorf("the cipher suite is %s, want %s", stdtls.CipherSuiteName(cs.CipherSuite), stdtls.CipherSuiteName(Suite))
	}
	if cs.CurveID != g.curve() {
		return fmt.Errorf("the key exchange is %v, want %v", cs.CurveID, g.curve())
	}
	return nil
}
