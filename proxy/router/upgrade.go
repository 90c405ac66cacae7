// SPDX-License-Identifier: Apache-2.0

package router

import "pillion/proxy/http"

// Upgrade says whether clients may switch to a protocol.
type Upgrade struct {
	Protocol string
	Enabled  bool
}

// Upgrades is a list of protocols, each of which is named once. Immutable.
type Upgrades []Upgrade

// Find reports whether the list names a protocol, in any case, and what it
// says of it. Like Envoy it compares the whole value of the Upgrade field.
func (u Upgrades) Find(protocol []byte) (enabled, found bool) {
	for i := range u {
		if http.EqualFoldString(protocol, u[i].Protocol) {
			return u[i].Enabled, true
		}
	}
	return false, false
}

// Any reports whether any protocol may be switched to.
func (u Upgrades) Any() bool {
	for i := range u {
		if u[i].Enabled {
			return true
		}
	}
	return false
}
