// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is the part of the container's limit that the Go heap, with the stacks,
// may fill before collections come closer together: the rest is for the pages of the
// program, and for what lies between two collections.
const memoryShare = 0.9

// limitMemory has the garbage collector heed the memory limit of the container: a
// burst is then paid for in CPU, where it would have ended the container before.
// GOMEMLIMIT, which Istio's injector sets, goes before it. limit tells the limit in
// octets. (Threads follow the CPU limit without our doing: Go's GOMAXPROCS does.)
func limitMemory(log *slog.Logger, limit memlimit.Provider) {
	if _, err := memlimit.Set(memlimit.WithProvider(limit), memlimit.WithRatio(memoryShare)); err != nil {
		log.Debug("the memory limit of the container isn't known; GOMEMLIMIT can tell it", "error", err)
	}
}
