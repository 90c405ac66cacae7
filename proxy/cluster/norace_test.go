// SPDX-License-Identifier: Apache-2.0

//go:build !race

package cluster

const raceEnabled = false
