// SPDX-License-Identifier: Apache-2.0

package istioca

import (
	"bytes"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"pillion/proxy/tls"
	"pillion/proxy/tls/renew"
)

// maxElements bounds the elements of an answer.
const maxElements = 32

// answer is what the CA gave, checked.
type answer struct {
	chain, key, roots []byte // PEM
	expires           time.Time
}

// readAnswer checks the CA's answer to a request of the given key: leaf,
// intermediates, and roots as the last element. All is checked before anything
// is put in place.
func readAnswer(elements []string, key []byte, id string, now time.Time) (*answer, error) {
	n := len(elements)
	if n < 2 || n > maxElements {
		return nil, renew.Because(renew.Invalid, fmt.Errorf("the CA's answer has %d elements; leaf and root are needed, and %d are too many", n, maxElements+1))
	}
	a := &answer{key: key, chain: joinPEM(elements[:n-1]), roots: joinPEM(elements[n-1:])}
	pair, err := stdtls.X509KeyPair(a.chain, key)
	if err != nil {
		return nil, renew.Because(renew.Invalid, fmt.Errorf("the CA's answer: %s", strings.TrimPrefix(err.Error(), "tls: ")))
	}
	roots, err := pool(a.roots)
	if err != nil {
		return nil, renew.Because(renew.Invalid, fmt.Errorf("the last element of the CA's answer: %w", err))
	}
	leaf := pair.Leaf
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
		return nil, &tls.IdentityError{Got: fmt.Sprint(leaf.URIs), Want: id}
	}
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, renew.Because(renew.Invalid, fmt.Errorf("an intermediate certificate of the CA's answer: %w", err))
		}
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, renew.Because(renew.Invalid, fmt.Errorf("the certificate that the CA gave: %w", err))
	}
	a.expires = leaf.NotAfter
	return a, nil
}

// pool parses roots; each of them has to be a certificate.
func pool(text []byte) (*x509.CertPool, error) {
	p, n := x509.NewCertPool(), 0
	for rest := text; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		p.AddCert(c)
	}
	if n == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return p, nil
}

// joinPEM joins PEM texts, which may end without a line's end.
func joinPEM(elements []string) []byte {
	var b bytes.Buffer
	for _, e := range elements {
		b.WriteString(strings.TrimSpace(e))
		b.WriteByte('\n')
	}
	return b.Bytes()
}
