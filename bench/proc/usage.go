// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a program has used since its start. Two of them, before and
// after a load, give the load's cost.
type Usage struct {
	// CPU is user and system time of all threads, ended ones included, to the
	// nanosecond.
	CPU time.Duration
	// User and System split it, to 10 ms (/proc/PID/stat).
	User, System time.Duration
	// Voluntary and Involuntary count context switches of the threads that
	// still live.
	Voluntary, Involuntary int64
}

// Sub returns the usage between o and u.
func (u Usage) Sub(o Usage) Usage {
	return Usage{
		CPU:         u.CPU - o.CPU,
		User:        u.User - o.User,
		System:      u.System - o.System,
		Voluntary:   u.Voluntary - o.Voluntary,
		Involuntary: u.Involuntary - o.Involuntary,
	}
}

// Add returns the sum of two programs' usage.
func (u Usage) Add(o Usage) Usage {
	return Usage{
		CPU:         u.CPU + o.CPU,
		User:        u.User + o.User,
		System:      u.System + o.System,
		Voluntary:   u.Voluntary + o.Voluntary,
		Involuntary: u.Involuntary + o.Involuntary,
	}
}

// ReadUsage sums the usage of all processes of a process group.
func ReadUsage(pgid int) (Usage, error) {
	var u Usage
	err := eachMember(pgid, func(pid int, s stat) error {
		cpu, err := cpuClock(pid)
		if err != nil {
			return err
		}
		vol, invol, err := switches(pid)
		if err != nil {
			return err
		}
		u.CPU += cpu
		u.User += s.user
		u.System += s.system
		u.Voluntary += vol
		u.Involuntary += invol
		return nil
	})
	return u, err
}

// cpuClock reads the CPU clock of another process. Its number is built as
// clock_getcpuclockid(3) does: the complement of the process number above
// three bits, of which the lowest two say CPUCLOCK_SCHED, the scheduler's
// exact sum of run time.
func cpuClock(pid int) (time.Duration, error) {
	const cpuclockSched = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// switches sums the context switches of a process's threads; the process's own
// status file has only those of its first thread.
func switches(pid int) (vol, invol int64, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if gone(err) {
			continue // the thread ended meanwhile
		}
		if err != nil {
			return 0, 0, err
		}
		v, err := parseFields(b, "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", f, err)
		}
		vol += v["voluntary_ctxt_switches"]
		invol += v["nonvoluntary_ctxt_switches"]
	}
	return vol, invol, nil
}

// Memory is the resident memory of a program, in bytes.
type Memory struct {
	// RSS is all of it, Anon the part that no file backs.
	RSS, Anon int64
}

// ReadMemory returns the memory of a process group. Processes of a group share
// pages (a master's and its worker's), so it is the largest process's RSS and
// what each of the others holds alone.
func ReadMemory(pgid int) (Memory, error) {
	var sum, largest, largestAlone Memory
	err := eachMember(pgid, func(pid int, _ stat) error {
		name := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		v, err := parseFields(b, "Rss", "Anonymous", "Private_Clean", "Private_Dirty")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		const kB = 1 << 10
		whole := Memory{RSS: v["Rss"] * kB, Anon: v["Anonymous"] * kB}
		alone := Memory{RSS: (v["Private_Clean"] + v["Private_Dirty"]) * kB, Anon: min(v["Anonymous"], v["Private_Dirty"]) * kB}
		sum.RSS += alone.RSS
		sum.Anon += alone.Anon
		if whole.RSS > largest.RSS {
			largest, largestAlone = whole, alone
		}
		return nil
	})
	return Memory{
		RSS:  sum.RSS - largestAlone.RSS + largest.RSS,
		Anon: sum.Anon - largestAlone.Anon + largest.Anon,
	}, err
}

// eachMember calls f for every process of a group. A process that ends while
// it is looked at is passed over; a group without any is an error.
func eachMember(pgid int, f func(pid int, s stat) error) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	found := false
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		s, err := parseStat(b)
		if err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		if s.pgrp != pgid {
			continue
		}
		if err := f(pid, s); gone(err) {
			continue
		} else if err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("process group %d has no process", pgid)
	}
	return nil
}

// gone reports whether an error only says that a process or thread has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// Members returns the process numbers of a group.
func Members(pgid int) ([]int, error) {
	var pids []int
	err := eachMember(pgid, func(pid int, _ stat) error {
		pids = append(pids, pid)
		return nil
	})
	return pids, err
}

// HostBusy returns the time for which the machine's processors, added up,
// weren't idle since it started.
func HostBusy() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(b)
}

// SelfCPU returns the CPU time of the calling process.
func SelfCPU() (time.Duration, error) { return cpuClock(os.Getpid()) }
