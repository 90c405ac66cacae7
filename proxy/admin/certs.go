// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"crypto/x509"
	nethttp "net/http"
	"net/url"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// serveCerts lists the certificates in the form of envoy.admin.v3.Certificates:
// one entry for each secret, whose path says where it came from.
func (h *handler) serveCerts(w nethttp.ResponseWriter, _ *nethttp.Request, _ url.Values) {
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	defer out.Flush()
	j := newJSON(out)
	j.open('{')
	j.key("certificates")
	j.open('[')
	if h.Certs != nil {
		now := time.Now()
		for _, c := range h.Certs.Certificates() {
			m := &adminv3.Certificate{}
			for _, a := range c.Anchors {
				m.CaCert = append(m.CaCert, certificateDetails(a, c.Source, now))
			}
			for _, a := range c.Chain {
				m.CertChain = append(m.CertChain, certificateDetails(a, c.Source, now))
			}
			j.message(m)
		}
	}
	j.close(']')
	j.end('}')
}

func certificateDetails(c *x509.Certificate, source string, now time.Time) *adminv3.CertificateDetails {
	d := &adminv3.CertificateDetails{
		Path:           source,
		SerialNumber:   serialText(c),
		ValidFrom:      timestamppb.New(c.NotBefore),
		ExpirationTime: timestamppb.New(c.NotAfter),
	}
	if left := c.NotAfter.Sub(now); left > 0 {
		d.DaysUntilExpiration = uint64(left / (24 * time.Hour))
	}
	add := func(n *adminv3.SubjectAlternateName) { d.SubjectAltNames = append(d.SubjectAltNames, n) }
	for _, u := range c.URIs {
		add(&adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Uri{Uri: u.String()}})
	}
	for _, name := range c.DNSNames {
		add(&adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Dns{Dns: name}})
	}
	for _, ip := range c.IPAddresses {
		add(&adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_IpAddress{IpAddress: ip.String()}})
	}
	return d
}

// serialText is the serial number as OpenSSL prints it: whole octets in
// lower-case hexadecimal.
func serialText(c *x509.Certificate) string {
	s := c.SerialNumber.Text(16)
	if len(s)%2 == 1 {
		s = "0" + s
	}
	return s
}
