// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"net"
	"net/netip"
)

// systemInterfaces lists the machine's interfaces that are up and aren't
// loopback.
func systemInterfaces() ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []Interface
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		one := Interface{Name: i.Name}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					one.Addrs = append(one.Addrs, ip.Unmap())
				}
			}
		}
		out = append(out, one)
	}
	return out, nil
}
