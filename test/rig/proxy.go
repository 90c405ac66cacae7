// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bytes"
	"fmt"
	"io"
	nethttp "net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long a test waits for something that should happen soon.
// It is long because tests share two cores; nothing waits for all of it
// unless the test is about to fail.
const Patience = 20 * time.Second

// Proxy is one running proxy.
type Proxy struct {
	// HTTP, Admin and Metrics are the addresses that it serves. Immutable.
	HTTP, Admin, Metrics string
	// Stdout and Stderr are what it printed.
	Stdout, Stderr *Log

	process *Process
}

// Options changes how a proxy is started.
type Options struct {
	// Command is the sub-command; "run" where it is empty.
	Command string
	// Args are further flags of the command.
	Args []string
	// Wrap changes the command before it starts.
	Wrap func(*exec.Cmd)
}

// Start runs the binary on the given paths and returns when it is ready. It is
// stopped when the test ends.
func Start(t testing.TB, binary string, o Options, paths ...string) *Proxy {
	t.Helper()
	p := &Proxy{HTTP: FreeAddr(t), Admin: FreeAddr(t), Metrics: FreeAddr(t)}
	if o.Command == "" {
		o.Command = "run"
	}
	args := append([]string{o.Command, "--http", p.HTTP, "--admin", p.Admin, "--metrics", p.Metrics}, o.Args...)
	cmd := exec.Command(binary, append(args, paths...)...)
	if o.Wrap != nil {
		o.Wrap(cmd)
	}
	p.process = StartProcess(t, cmd)
	p.Stdout, p.Stderr = p.process.Stdout, p.process.Stderr
	Until(t, "the proxy is ready", func() error {
		if p.process.Exited() {
			t.Fatalf("%v ended before it was ready:\n%s%s", cmd, p.Stdout, p.Stderr)
		}
		_, err := p.Ask("GET", "/ready")
		return err
	})
	return p
}

// PID returns the process's id.
func (p *Proxy) PID() int { return p.process.PID() }

// Signal sends a signal to the proxy.
func (p *Proxy) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	p.process.Signal(t, s)
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// WaitExit waits until the proxy has ended and returns its exit code.
func (p *Proxy) WaitExit(t testing.TB) int {
	t.Helper()
	return p.process.WaitExit(t)
}

// Ask sends a request to the admin port and returns the body of a 200.
func (p *Proxy) Ask(method, path string) (string, error) {
	return Fetch(method, "http://"+p.Admin+path)
}

// Get returns the body of an admin page.
func (p *Proxy) Get(t testing.TB, path string) string {
	t.Helper()
	body, err := p.Ask("GET", path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// Fetch makes one HTTP request on a connection of its own and returns the
// body of a 200.
func Fetch(method, url string) (string, error) {
	req, err := nethttp.NewRequest(method, url, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	client := nethttp.Client{Timeout: Patience}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != 200 {
		return "", fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, body)
	}
	return string(body), nil
}

// Process is a running program.
type Process struct {
	// Stdout and Stderr are what it printed.
	Stdout, Stderr *Log

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// StartProcess starts cmd and stops it when the test ends: by SIGTERM, then,
// if it doesn't end, by SIGKILL. What it printed is logged if the test failed.
func StartProcess(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Stdout: &Log{}, Stderr: &Log{}, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // the exit code is read from ProcessState
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails only where it has ended
		select {
		case <-p.done:
		case <-time.After(Patience):
			_ = cmd.Process.Kill()
			<-p.done
			t.Errorf("%v didn't end after SIGTERM", cmd.Args)
		}
		if t.Failed() {
			t.Logf("%v printed:\n%s%s", cmd.Args, p.Stdout.tail(), p.Stderr.tail())
		}
	})
	return p
}

// Exited tells whether the process has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// WaitExit waits until the process has ended and returns its exit code.
func (p *Process) WaitExit(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(Patience):
		t.Fatalf("%v didn't end", p.cmd.Args)
		return -1
	}
}

// Log collects what a process prints. It is safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

// Write appends to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns what was printed so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Lines returns the lines so far that contain every one of parts.
func (l *Log) Lines(parts ...string) []string {
	var found []string
line:
	for line := range strings.Lines(l.String()) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue line
			}
		}
		found = append(found, strings.TrimSuffix(line, "\n"))
	}
	return found
}

// tail returns the end of a long log.
func (l *Log) tail() string {
	const most = 8 << 10
	s := l.String()
	if len(s) > most {
		return "[…]" + s[len(s)-most:]
	}
	return s
}
