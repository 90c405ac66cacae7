// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets this test's binary play the programs that the tests start.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "burn": // uses 200 ms of CPU time, says so, and waits
		begin, _ := SelfCPU()
		for now := begin; now-begin < 200*time.Millisecond; now, _ = SelfCPU() {
		}
		fmt.Println("burnt")
		select {}
	case "starter": // starts a program in a group, tells its number, and waits
		g := NewGroup()
		p, err := g.Start(Spec{Name: "sleeper", Path: "sleep", Args: []string{"60"}})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.PID())
		select {}
	case "affinity":
		var set unix.CPUSet
		_ = unix.SchedGetaffinity(0, &set)
		fmt.Println(set.Count())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startAndRead starts a program and returns it with its first line.
func startAndRead(t *testing.T, g *Group, s Spec) (*Process, string) {
	t.Helper()
	r, w := io.Pipe()
	s.Stdout = w
	p, err := g.Start(s)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return p, strings.TrimSpace(line)
}

// ended waits until no process of a group is left.
func ended(t *testing.T, pgid int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		if err := syscall.Kill(-pgid, 0); errors.Is(err, syscall.ESRCH) {
			return
		}
		<-tick.C
	}
	t.Fatalf("process group %d is still there", pgid)
}

func TestCloseEndsAllWithTheirChildren(t *testing.T) {
	g := NewGroup()
	// A shell that ignores SIGTERM and has a child of its own.
	p, line := startAndRead(t, g, Spec{Name: "stubborn", Path: "sh", Args: []string{"-c", "trap '' TERM; sleep 60 & echo up; wait; wait"}})
	q, _ := startAndRead(t, g, Spec{Name: "obedient", Path: "sh", Args: []string{"-c", "echo up; exec sleep 60"}})
	if line != "up" {
		t.Fatalf("first line %q", line)
	}
	members, err := Members(p.PID())
	if err != nil || len(members) != 2 {
		t.Errorf("members %v, error %v, want the shell and its child", members, err)
	}
	g.Close()
	ended(t, p.PID())
	ended(t, q.PID())
	if _, err := g.Start(Spec{Name: "late", Path: "true"}); err == nil {
		t.Error("a closed group starts a program")
	}
	g.Close() // twice does no harm
}

func TestDeathOfTheStarterEndsTheProgram(t *testing.T) {
	g := NewGroup()
	defer g.Close()
	p, line := startAndRead(t, g, Spec{Name: "starter", Path: self(t), Args: []string{"starter"}})
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatalf("the starter says %q", line)
	}
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended(t, pid)
}

func TestRun(t *testing.T) {
	g := NewGroup()
	defer g.Close()
	var out bytes.Buffer
	if _, err := g.Run(t.Context(), Spec{Name: "cat", Path: "cat", Stdin: strings.NewReader("through"), Stdout: &out}); err != nil || out.String() != "through" {
		t.Errorf("output %q, error %v", out.String(), err)
	}
	_, err := g.Run(t.Context(), Spec{Name: "failing", Path: "sh", Args: []string{"-c", "echo first; echo wrong >&2; exit 3"}})
	if err == nil || !strings.Contains(err.Error(), "failing: exit status 3") || !strings.Contains(err.Error(), "wrong") {
		t.Errorf("error %v, want the status and what it wrote", err)
	}
	if _, err := g.Run(t.Context(), Spec{Name: "absent", Path: "/nowhere/absent"}); !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v for a program that doesn't exist", err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	p, err := g.Run(ctx, Spec{Name: "endless", Path: "sleep", Args: []string{"60"}})
	if !errors.Is(err, cause) {
		t.Errorf("error %v, want the context's cause", err)
	}
	ended(t, p.PID())
}

func TestUsageIsTheKernels(t *testing.T) {
	g := NewGroup()
	defer g.Close()
	p, _ := startAndRead(t, g, Spec{Name: "burn", Path: self(t), Args: []string{"burn"}})
	u, err := ReadUsage(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	if u.CPU < 200*time.Millisecond || u.CPU > 2*time.Second {
		t.Errorf("CPU time %v of a program that used 200 ms", u.CPU)
	}
	if d := u.CPU - u.User - u.System; d < -50*time.Millisecond || d > 50*time.Millisecond {
		t.Errorf("user %v and system %v aren't the whole %v", u.User, u.System, u.CPU)
	}
	if u.Voluntary+u.Involuntary < 1 {
		t.Errorf("context switches %d and %d", u.Voluntary, u.Involuntary)
	}
	if d := u.Sub(u); d != (Usage{}) {
		t.Errorf("u - u = %+v", d)
	}
	m, err := ReadMemory(p.PID())
	if err != nil || m.RSS < 1<<20 || m.Anon < 1<<16 || m.Anon > m.RSS {
		t.Errorf("memory %+v, error %v", m, err)
	}
	pid := p.PID()
	g.Stop(p)
	if p.CPU() < 200*time.Millisecond {
		t.Errorf("CPU time after the end is %v", p.CPU())
	}
	if _, err := ReadUsage(pid); err == nil {
		t.Error("usage of a program that has ended")
	}
}

// TestSharedPagesCountOnce: a shell and its forked copy share most pages.
func TestSharedPagesCountOnce(t *testing.T) {
	g := NewGroup()
	defer g.Close()
	p, _ := startAndRead(t, g, Spec{Name: "shells", Path: "sh", Args: []string{"-c", "(echo up; read x < /dev/zero) & wait"}})
	pair, err := ReadMemory(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	members, err := Members(p.PID())
	if err != nil || len(members) != 2 {
		t.Fatalf("members %v, error %v", members, err)
	}
	var sum int64
	for _, pid := range members {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		v, err := parseFields(b, "Rss")
		if err != nil {
			t.Fatal(err)
		}
		sum += v["Rss"] << 10
	}
	if pair.RSS >= sum || pair.RSS < sum/2 {
		t.Errorf("RSS of both together is %d, of each added up %d", pair.RSS, sum)
	}
}

func TestAffinity(t *testing.T) {
	g := NewGroup()
	defer g.Close()
	_, all := startAndRead(t, g, Spec{Name: "free", Path: self(t), Args: []string{"affinity"}})
	cpus, err := CPUs()
	if err != nil || fmt.Sprint(len(cpus)) != all {
		t.Fatalf("CPUs %v, %v; a program says there are %s", cpus, err, all)
	}
	_, one := startAndRead(t, g, Spec{Name: "bound", Path: self(t), Args: []string{"affinity"}, CPUs: cpus[:1]})
	_, again := startAndRead(t, g, Spec{Name: "free", Path: self(t), Args: []string{"affinity"}})
	if one != "1" || again != all {
		t.Errorf("CPUs: %s free, %s bound to one, %s free again", all, one, again)
	}
}

func TestHostBusyGrows(t *testing.T) {
	before, err := HostBusy()
	if err != nil || before <= 0 {
		t.Fatalf("HostBusy = %v, %v", before, err)
	}
	begin, _ := SelfCPU()
	for now := begin; now-begin < 50*time.Millisecond; now, _ = SelfCPU() {
	}
	after, err := HostBusy()
	if err != nil || after <= before {
		t.Errorf("HostBusy went from %v to %v, %v", before, after, err)
	}
}

// TestFreePorts: nobody listens on them, each is another one, and the kernel gives none
// to an outgoing connection.
func TestFreePorts(t *testing.T) {
	for range 20 {
		ports, err := FreePorts(50)
		if err != nil || len(ports) != 50 {
			t.Fatalf("FreePorts = %v, %v", ports, err)
		}
		given := map[int]bool{}
		for _, p := range ports {
			if p < firstPort || p >= lastPort || given[p] {
				t.Errorf("%d of %v", p, ports)
			}
			given[p] = true
			ln, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", p))
			if err != nil {
				t.Errorf("it isn't free: %v", err)
				continue
			}
			_ = ln.Close()
		}
	}
	if _, err := FreePorts(lastPort - firstPort + 1); err == nil {
		t.Error("there are more ports than there are")
	}
}

func TestRaiseOpenFiles(t *testing.T) {
	if err := RaiseOpenFiles(16); err != nil {
		t.Error(err)
	}
	if err := RaiseOpenFiles(1 << 62); err == nil || !strings.Contains(err.Error(), "ulimit") {
		t.Errorf("error %v, want one that names ulimit", err)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var tl tail
	for range 1000 {
		_, _ = tl.Write([]byte("0123456789"))
	}
	_, _ = tl.Write([]byte("end\n"))
	if s := tl.String(); len(s) > tailSize || !strings.HasSuffix(s, "9end") {
		t.Errorf("%d bytes, ending %q", len(s), s[max(0, len(s)-8):])
	}
}
