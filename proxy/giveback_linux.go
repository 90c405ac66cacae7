// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// giveBack returns the memory that reading a configuration needed and serving
// it doesn't: what the heap has free, and the pages of our own program file
// that only start-up, parsers and reflection touched. A dropped page of the
// file that is needed after all is mapped again from the page cache.
func giveBack() {
	debug.FreeOSMemory()
	_ = dropProgramPages()
}

// dropProgramPages unmaps the read-only pages of the running program file. It
// keeps a mapping that holds pages of its own (relocated data of a
// position-independent program): those would be lost.
func dropProgramPages() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	var m mapping
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		if next, ok := parseMapping(line); ok {
			m.drop(exe)
			m = next
			continue
		}
		if rest, ok := strings.CutPrefix(line, "Anonymous:"); ok {
			m.clean = strings.TrimSpace(rest) == "0 kB"
		}
	}
	m.drop(exe)
	return nil
}

// mapping is one entry of /proc/self/smaps.
type mapping struct {
	from, to    uintptr
	perms, path string
	clean       bool // no page of it differs from the file
}

// parseMapping reads the first line of an entry (proc_pid_maps(5)).
func parseMapping(line string) (m mapping, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || strings.HasSuffix(fields[0], ":") {
		return m, false
	}
	if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.from, &m.to); err != nil {
		return m, false
	}
	m.perms, m.path = fields[1], fields[5]
	return m, true
}

func (m *mapping) drop(exe string) {
	if m.path != exe || !m.clean || strings.Contains(m.perms, "w") || m.to <= m.from {
		return
	}
	// The range is one mapping that the kernel has just listed; nothing in it
	// can be written, so nothing can be lost.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED)
}
