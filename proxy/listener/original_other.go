// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package listener

import (
	"net"
	"net/netip"
)

// kernelOriginal: only Linux redirects connections in a way that we can ask about.
func kernelOriginal(net.Conn) (netip.AddrPort, bool) { return netip.AddrPort{}, false }
