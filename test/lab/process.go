// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// command is a program to run.
type command struct {
	host *Namespace // its network; nil is that of this process
	path string
	args []string
	dir  string
	env  []string
	log  string // the file that what it prints is added to
	uid  uint32 // whom it runs as; 0 is whom this process runs as
}

// process is a program that runs.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start starts a program, which ends with this process at the latest.
func start(c command) (*process, error) {
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the program has its own
	// A program of another user may open /dev/stdout anew, as Envoy does.
	if err := out.Chmod(0o666); err != nil {
		return nil, err
	}
	words := append([]string{c.path}, c.args...)
	if c.uid != 0 {
		id := strconv.FormatUint(uint64(c.uid), 10)
		// The kernel forgets about our death with a change of user.
		words = append([]string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--pdeathsig", "KILL", "--"}, words...)
	}
	if c.host != nil {
		// Not by Do: ip also gives the program the files of /etc/netns.
		words = append([]string{"ip", "netns", "exec", c.host.name}, words...)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, c.env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.path, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // the exit code is read from ProcessState
	}()
	return p, nil
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process, with what it has started in its group, and waits for
// its end.
func (p *process) kill() {
	if !p.exited() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // fails only where it has just ended
	}
	<-p.done
}

// tail returns the end of a file, for messages.
func tail(path string) string {
	const most = 6 << 10
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return string(text)
}
