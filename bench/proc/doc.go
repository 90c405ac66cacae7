// SPDX-License-Identifier: Apache-2.0

// Package proc starts the programs of a benchmark, ends them whatever happens,
// and reads from /proc what they cost.
//
// Every program is the leader of its own process group, so that the group's
// number names the program and all that it forks (a master and its workers).
// Linux only: the accounting is the kernel's own.
package proc
