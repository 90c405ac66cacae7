// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host describes the machine, for the notes that go with every result.
type Host struct {
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	MemoryMB int64   `json:"memory_mib"`
	Kernel   string  `json:"kernel"`
	Arch     string  `json:"arch"`
	Go       string  `json:"go"`
	Load1    float64 `json:"load_average_at_start"`
}

// ReadHost reads the machine's notes. What the kernel doesn't tell stays empty.
func ReadHost() Host {
	h := Host{Cores: runtime.NumCPU(), Arch: runtime.GOARCH, Go: runtime.Version()}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		h.CPU = cpuModel(b)
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		if v, err := parseFields(b, "MemTotal"); err == nil {
			h.MemoryMB = v["MemTotal"] >> 10
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = "Linux " + unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(b), &h.Load1)
	}
	return h
}

// cpuModel finds the model's name in /proc/cpuinfo; "" where the architecture
// has no such line.
func cpuModel(b []byte) string {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		if key, v, ok := strings.Cut(sc.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// CPUs returns the numbers of the processors that this process may run on.
func CPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("read the CPU affinity: %w", err)
	}
	var out []int
	for i := 0; len(out) < set.Count(); i++ {
		if set.IsSet(i) {
			out = append(out, i)
		}
	}
	return out, nil
}

// Ports of the servers that are started lie below the range from which the kernel takes
// the ports of outgoing connections (32768 and up by default), of which a load makes many,
// and apart from those of the tests beside it (test/rig), and of meshes (15000 and up).
const firstPort, lastPort = 10000, 15000

// FreePorts returns n different TCP ports of the loopback address that were free a moment
// ago. Another program may take one first; the check that every peer passes
// before it is measured finds that.
func FreePorts(n int) ([]int, error) {
	// All are held until all are there, so that none is given twice. Another process
	// begins somewhere else.
	var held []net.Listener
	defer func() {
		for _, ln := range held {
			_ = ln.Close()
		}
	}()
	var ports []int
	var last error
	start := rand.IntN(lastPort - firstPort)
	for i := range lastPort - firstPort {
		port := firstPort + (start+i)%(lastPort-firstPort)
		ln, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			last = err
			continue
		}
		held, ports = append(held, ln), append(ports, port)
		if len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports: %w", n, last)
}

// FreePort returns one.
func FreePort() (int, error) {
	ports, err := FreePorts(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}

// RaiseOpenFiles sets the limit of open files, also of all programs started
// later, to the hard limit, and fails if that is below need. Go raises its own
// limit at start but gives children the old one back, unless the program has
// set the limit itself (package syscall, Setrlimit).
func RaiseOpenFiles(need uint64) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if l.Max < need {
		return fmt.Errorf("%d open files are needed and the hard limit is %d; raise it (ulimit -Hn %d as root, or LimitNOFILE= of the service)", need, l.Max, need)
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", l.Max, err)
	}
	return nil
}
