// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a program may take to end after SIGTERM before its
// whole group is killed. Long enough for nginx and HAProxy to leave, short
// enough that a run of many turns isn't slowed by a peer that drains.
const stopGrace = 2 * time.Second

// Spec says which program to start and how.
type Spec struct {
	// Name is the word for it in messages.
	Name string
	// Path is the executable, Args its arguments without the name.
	Path string
	Args []string
	// Env is added to the benchmark's own environment.
	Env []string
	// Dir is its working directory; "" is the benchmark's.
	Dir string
	// Stdin and Stdout may be nil. Stdout nil joins Stderr in the kept tail.
	Stdin  io.Reader
	Stdout io.Writer
	// Files become its descriptors 3 and up; the caller still closes its own.
	Files []*os.File
	// DeathSignal is what the kernel sends it if the benchmark dies; 0 is
	// SIGKILL. A master that must take its workers with it needs SIGTERM.
	DeathSignal syscall.Signal
	// CPUs, if not empty, are the only processors that it may run on.
	CPUs []int
}

// Group starts programs and ends them all. Use NewGroup.
type Group struct {
	// starts carries work to the one thread that forks; immutable.
	starts chan func()
	// done is closed when that thread may end; immutable.
	done chan struct{}

	// mu guards running and closed.
	mu      sync.Mutex
	running map[*Process]struct{}
	closed  bool
}

// NewGroup returns an empty group; the caller must Close it.
//
// The parent-death signal of Linux is bound to the thread that forked, not to
// the process (prctl(2), PR_SET_PDEATHSIG), and Go may end any thread that no
// goroutine is locked to. So one locked thread does all starts and lives as
// long as the group.
func NewGroup() *Group {
	g := &Group{starts: make(chan func()), done: make(chan struct{}), running: map[*Process]struct{}{}}
	go func() {
		runtime.LockOSThread()
		for {
			select {
			case f := <-g.starts:
				f()
			case <-g.done:
				return // still locked: the runtime ends the thread
			}
		}
	}()
	return g
}

// Process is a started program.
type Process struct {
	name string
	cmd  *exec.Cmd
	tail *tail
	// exited is closed after err is set.
	exited chan struct{}
	err    error
}

// Start starts a program in its own process group.
func (g *Group) Start(s Spec) (*Process, error) {
	p := &Process{name: s.Name, tail: &tail{}, exited: make(chan struct{})}
	p.cmd = exec.Command(s.Path, s.Args...)
	p.cmd.Dir = s.Dir
	p.cmd.Env = append(os.Environ(), s.Env...)
	p.cmd.Stdin = s.Stdin
	p.cmd.ExtraFiles = s.Files
	p.cmd.Stderr = p.tail
	p.cmd.Stdout = s.Stdout
	if s.Stdout == nil {
		p.cmd.Stdout = p.tail
	}
	// A forked helper that keeps a pipe open must not hold up Wait.
	p.cmd.WaitDelay = stopGrace
	death := s.DeathSignal
	if death == 0 {
		death = syscall.SIGKILL
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: death}

	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, fmt.Errorf("start %s: the run is ending", s.Name)
	}
	started := make(chan error, 1)
	g.starts <- func() { started <- startOn(p.cmd, s.CPUs) }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	g.running[p] = struct{}{}
	go func() {
		p.err = p.cmd.Wait()
		// What it forked may have stayed. Done at once, while the number can
		// hardly be another's; without members it is ESRCH.
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		close(p.exited)
	}()
	return p, nil
}

// startOn starts cmd from the calling thread with the thread's affinity set to
// cpus, which the child inherits from its first instruction on; setting it
// after the start would miss threads that the program has already made.
func startOn(cmd *exec.Cmd, cpus []int) error {
	if len(cpus) == 0 {
		return cmd.Start()
	}
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read the CPU affinity: %w", err)
	}
	for _, c := range cpus {
		only.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("set the CPU affinity to %v: %w", cpus, err)
	}
	err := cmd.Start()
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

// Run starts a program and waits for its end. When ctx ends first, the program
// is stopped and ctx's error returned.
func (g *Group) Run(ctx context.Context, s Spec) (*Process, error) {
	p, err := g.Start(s)
	if err != nil {
		return nil, err
	}
	defer g.Stop(p)
	select {
	case <-p.exited:
		if p.err != nil {
			return p, p.Failure()
		}
		return p, nil
	case <-ctx.Done():
		return p, context.Cause(ctx)
	}
}

// Stop ends a program and all of its process group: SIGTERM, then SIGKILL. It
// returns when the program is gone.
func (g *Group) Stop(p *Process) {
	g.mu.Lock()
	_, known := g.running[p]
	delete(g.running, p)
	g.mu.Unlock()
	if !known {
		return
	}
	select {
	case <-p.exited:
		return
	default:
	}
	_ = syscall.Kill(-p.PID(), syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopGrace):
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.exited
	}
}

// Close stops all programs of the group, side by side, and lets no more start.
func (g *Group) Close() {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return
	}
	g.closed = true
	left := make([]*Process, 0, len(g.running))
	for p := range g.running {
		left = append(left, p)
	}
	g.mu.Unlock()

	var wg sync.WaitGroup
	for _, p := range left {
		wg.Go(func() { g.Stop(p) })
	}
	wg.Wait()
	close(g.done)
}

// PID is the program's process and process-group number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Name is the word for the program in messages.
func (p *Process) Name() string { return p.name }

// Exited is closed when the program has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// CPU is the user and system time that an ended program used, its waited-for
// children included; 0 while it runs.
func (p *Process) CPU() time.Duration {
	select {
	case <-p.exited:
		if st := p.cmd.ProcessState; st != nil {
			return st.UserTime() + st.SystemTime()
		}
	default:
	}
	return 0
}

// Failure describes why an ended program ended, with the last lines that it
// wrote, for a message to the user.
func (p *Process) Failure() error {
	why := "ended with status 0"
	if p.err != nil {
		why = p.err.Error()
	}
	if t := p.Tail(); t != "" {
		return fmt.Errorf("%s: %s; it wrote:\n%s", p.name, why, indent(t))
	}
	return fmt.Errorf("%s: %s and wrote nothing", p.name, why)
}

// Tail returns the last lines that the program wrote to stderr (and to stdout,
// if that went nowhere else).
func (p *Process) Tail() string { return p.tail.String() }

func indent(s string) string {
	return "    " + strings.ReplaceAll(s, "\n", "\n    ")
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

// tailSize is enough for the configuration error of any peer.
const tailSize = 4 << 10

// Write keeps the end of b; it never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

// String returns what is kept, without surrounding white space.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
