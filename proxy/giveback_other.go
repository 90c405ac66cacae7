// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package proxy

import "runtime/debug"

// giveBack returns the heap's free memory to the system.
func giveBack() { debug.FreeOSMemory() }
