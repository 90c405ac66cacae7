// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"pillion/proxy/hcm"
)

// maxTrustedHops is more than any X-Forwarded-For has entries.
const maxTrustedHops = 1 << 16

// internalAddresses reads whose clients are our own. Unix sockets, of which
// requests don't come here, have none.
func internalAddresses(c *hcmv3.HttpConnectionManager_InternalAddressConfig) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, r := range c.GetCidrRanges() {
		addr, err := netip.ParseAddr(r.GetAddressPrefix())
		if err != nil {
			return nil, fmt.Errorf("cidr_ranges[%d]: %q is not an IP address", i, r.GetAddressPrefix())
		}
		p, err := addr.Prefix(int(r.GetPrefixLen().GetValue()))
		if err != nil {
			return nil, fmt.Errorf("cidr_ranges[%d]: %w", i, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// clientCertDetails reads what is told of clients' certificates.
func clientCertDetails(d *hcmv3.HttpConnectionManager_SetCurrentClientCertDetails) hcm.ClientCertDetails {
	return hcm.ClientCertDetails{
		Subject: d.GetSubject().GetValue(), Cert: d.GetCert(), Chain: d.GetChain(), DNS: d.GetDns(), URI: d.GetUri(),
	}
}
