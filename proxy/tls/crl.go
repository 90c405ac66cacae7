// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// revocations are the parsed lists of revoked certificates. Immutable.
type revocations struct {
	lists map[string][]*revocationList // by the issuer's name in DER
}

type revocationList struct {
	list    *x509.RevocationList
	serials map[string]struct{} // as big-endian bytes
}

func parseCRLs(text []byte) (*revocations, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("longer than %d bytes", maxPEM)
	}
	r := &revocations{lists: map[string][]*revocationList{}}
	n := 0
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("list %d: %w", n+1, err)
		}
		n++
		l := &revocationList{list: list, serials: make(map[string]struct{}, len(list.RevokedCertificateEntries))}
		for i := range list.RevokedCertificateEntries {
			l.serials[string(list.RevokedCertificateEntries[i].SerialNumber.Bytes())] = struct{}{}
		}
		list.RevokedCertificateEntries, list.Raw = nil, list.Raw[:0:0]
		r.lists[string(list.RawIssuer)] = append(r.lists[string(list.RawIssuer)], l)
	}
	if n == 0 {
		return nil, errors.New("the text holds no PEM block of type X509 CRL")
	}
	return r, nil
}

// check refuses a chain of which a certificate is revoked, or whose issuer's
// list is missing or out of date, as X509_V_FLAG_CRL_CHECK_ALL does. leafOnly
// asks for the first certificate alone. until is when it has to be asked again.
func (r *revocations) check(chain []*x509.Certificate, leafOnly bool, now time.Time) (until time.Time, err *Error) {
	for i := 0; i+1 < len(chain); i++ {
		cert, issuer := chain[i], chain[i+1]
		l := r.of(issuer)
		switch {
		case l == nil:
			return until, chainError(fmt.Sprintf("at depth %d: unable to get certificate CRL", i))
		case now.Before(l.list.ThisUpdate):
			return until, chainError(fmt.Sprintf("at depth %d: CRL is not yet valid", i))
		case !l.list.NextUpdate.IsZero() && now.After(l.list.NextUpdate):
			return until, chainError(fmt.Sprintf("at depth %d: CRL has expired", i))
		}
		if _, revoked := l.serials[string(cert.SerialNumber.Bytes())]; revoked {
			return until, chainError(fmt.Sprintf("at depth %d: certificate revoked", i))
		}
		if next := l.list.NextUpdate; !next.IsZero() && (until.IsZero() || next.Before(until)) {
			until = next
		}
		if leafOnly {
			break
		}
	}
	return until, nil
}

// of returns the newest list that the issuer signed.
func (r *revocations) of(issuer *x509.Certificate) *revocationList {
	var best *revocationList
	for _, l := range r.lists[string(issuer.RawSubject)] {
		if l.list.CheckSignatureFrom(issuer) != nil {
			continue
		}
		if best == nil || l.list.ThisUpdate.After(best.list.ThisUpdate) {
			best = l
		}
	}
	return best
}
