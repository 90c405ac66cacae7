// SPDX-License-Identifier: Apache-2.0

package http

import "strings"

// HostOf cuts the port off an address as text, and the brackets of IPv6.
func HostOf(address string) string {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return address
	}
	return strings.TrimSuffix(strings.TrimPrefix(address[:i], "["), "]")
}
