// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"pillion/test/need"
)

// ProxyUID is the user that a sidecar runs as. Istio's rules of iptables let
// the connections of this user pass.
const ProxyUID = 1337

// PodSpec is a pod that a Network has.
type PodSpec struct {
	Namespace, Name string
	Addr            netip.Addr // in 10.244.0.0/24, and not the node's
	Redirect        bool       // has Istio's rules of iptables
	Addr6           netip.Addr // in fd00:10:244::/64; a pod that has one is a dual-stack one
}

// BookinfoPods are the pods of Bookinfo. legacy alone has no sidecar. The
// gateway has no rules: it is reached at its own ports.
func BookinfoPods() []PodSpec {
	pod := func(name string, last byte, redirect bool) PodSpec {
		return PodSpec{Namespace: "default", Name: name, Addr: netip.AddrFrom4([4]byte{10, 244, 0, last}), Redirect: redirect}
	}
	gateway := pod("istio-ingressgateway", 14, false)
	gateway.Namespace = "istio-system"
	return []PodSpec{pod("productpage-v1", 10, true), pod("reviews-v1", 11, true), pod("reviews-v2", 12, true), pod("ratings-v1", 13, true),
		gateway, pod("legacy", 20, false)}
}

// Network is a node with pods: a network namespace for each, joined by a
// bridge in that of the node. Nothing of it is seen from outside, so that every
// test can have one with the same addresses.
type Network struct {
	// Node is where istiod belongs (Options.Host), at 10.244.0.1.
	Node *Namespace

	t    testing.TB
	pods map[string]*Pod // immutable
	made []string        // names of namespaces; grows only in StartNetwork
}

// Pod is one network namespace of a Network.
type Pod struct {
	*Namespace
	Spec PodSpec

	t testing.TB
}

// networks counts those of this process, for the names of their namespaces.
var networks atomic.Int64

// StartNetwork makes a network, and takes it away when the test ends. It needs
// root, ip, iptables and, for pods that redirect, what `make lab` builds.
func StartNetwork(t testing.TB, pods []PodSpec) *Network {
	t.Helper()
	need.Superuser(t)
	n := &Network{t: t, pods: map[string]*Pod{}}
	sweep(t)
	prefix := fmt.Sprintf("%s%d-%d-", namePrefix, os.Getpid(), networks.Add(1))
	t.Cleanup(func() { n.remove() })
	node := n.add(prefix+"node", &n.Node)
	n.ip("-n", node, "link", "add", "br0", "type", "bridge")
	n.ip("-n", node, "addr", "add", nodeAddr.String()+"/24", "dev", "br0")
	n.ip("-n", node, "link", "set", "br0", "up")
	for i, spec := range pods {
		p := &Pod{Spec: spec, t: t}
		name := n.add(prefix+spec.Name, &p.Namespace)
		port := "veth" + strconv.Itoa(i)
		n.ip("-n", node, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
		n.ip("-n", node, "link", "set", port, "master", "br0", "up")
		n.ip("-n", name, "addr", "add", spec.Addr.String()+"/24", "dev", "eth0")
		if spec.Addr6.IsValid() {
			n.ip("-n", name, "-6", "addr", "add", spec.Addr6.String()+"/64", "dev", "eth0", "nodad")
		}
		n.ip("-n", name, "link", "set", "eth0", "up")
		// Services have addresses of another network, which no one answers
		// to: iptables take the packets before they would leave the pod.
		n.ip("-n", name, "route", "add", "default", "via", nodeAddr.String())
		if spec.Redirect {
			p.redirect()
		}
		n.pods[spec.Name] = p
	}
	return n
}

// namePrefix is what the names of all namespaces of networks begin with.
const namePrefix = "pillion-"

// sweep removes the namespaces of processes that have ended without doing so.
func sweep(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), namePrefix)
		pid, _, _ := strings.Cut(rest, "-")
		if _, err := strconv.Atoi(pid); !ours || err != nil {
			continue
		}
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			// Another test may have been quicker.
			_ = removeNamespace(need.Program(t, "ip"), e.Name())
		}
	}
}

// etc is where ip finds files that it puts over those of /etc for the programs
// of a namespace (ip-netns(8)).
const etc = "/etc/netns/"

// hosts are what DNS would say in a cluster.
const hosts = `127.0.0.1 localhost
10.244.0.1 istiod.istio-system.svc istiod.istio-system.svc.cluster.local
10.96.0.10 productpage productpage.default.svc.cluster.local
10.96.0.11 reviews reviews.default.svc.cluster.local
10.96.0.12 ratings ratings.default.svc.cluster.local
10.244.0.30 outside.example.com
10.96.0.14 istio-ingressgateway.istio-system istio-ingressgateway.istio-system.svc.cluster.local
`

// removeNamespace kills what still runs in a namespace of ours, as what a
// program there has started may, and deletes it.
func removeNamespace(ip, name string) error {
	pids, err := exec.Command(ip, "netns", "pids", name).Output()
	if err != nil {
		return err
	}
	for text := range strings.FieldsSeq(string(pids)) {
		if pid, err := strconv.Atoi(text); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
	return errors.Join(exec.Command(ip, "netns", "del", name).Run(), os.RemoveAll(etc+name))
}

// add makes a namespace with a loopback device that is up.
func (n *Network) add(name string, into **Namespace) string {
	n.t.Helper()
	n.ip("netns", "add", name)
	n.made = append(n.made, name)
	// Nobody answers at the node's port 53, and says so at once.
	for file, text := range map[string]string{"hosts": hosts, "resolv.conf": "nameserver " + nodeAddr.String() + "\n"} {
		err := os.MkdirAll(etc+name, 0o755)
		if err == nil {
			err = os.WriteFile(etc+name+"/"+file, []byte(text), 0o644)
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
	ns, err := openNamespace(name)
	if err != nil {
		n.t.Fatal(err)
	}
	*into = ns
	n.ip("-n", name, "link", "set", "lo", "up")
	return name
}

func (n *Network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command(need.Program(n.t, "ip"), args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// remove deletes the namespaces. The devices in them go with them.
func (n *Network) remove() {
	for _, name := range slices.Backward(n.made) {
		if err := removeNamespace(need.Program(n.t, "ip"), name); err != nil {
			n.t.Error(err)
		}
	}
	for _, p := range n.pods {
		_ = p.file.Close() // what was open in it is gone
	}
	if n.Node != nil {
		_ = n.Node.file.Close()
	}
}

// Pod returns a pod by its name.
func (n *Network) Pod(name string) *Pod {
	n.t.Helper()
	p := n.pods[name]
	if p == nil {
		n.t.Fatalf("the network has no pod %q", name)
	}
	return p
}

// redirect has Istio's own program make the rules that the istio-init
// container of a pod makes, with the arguments that the injector gives it.
func (p *Pod) redirect() {
	p.t.Helper()
	need.Program(p.t, "iptables")
	agent := AgentProgram(p.t)
	cmd := exec.Command(agent, "istio-iptables", "-p", "15001", "-z", "15006", "-u", strconv.Itoa(ProxyUID), "-m", "REDIRECT",
		"-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=/nonexistent", "ISTIO_DUAL_STACK=" + strconv.FormatBool(p.Spec.Addr6.IsValid())}
	if err := p.Do(cmd.Run); err != nil { // the rules are those of the namespace
		p.t.Fatalf("%v in %s: %v\n%s", cmd, p.Spec.Name, err, out.String())
	}
}

// AgentProgram returns the path of pilot-agent.
func AgentProgram(t testing.TB) string {
	t.Helper()
	path, err := Program(need.Root(t), "pilot-agent")
	if err != nil {
		t.Fatal(err)
	}
	need.Lab(t, path)
	return path
}

// Command is a program to run in a pod.
type Command struct {
	Path string
	Args []string
	Env  []string // all of its environment
	Dir  string   // a folder of its own if empty
	// UID is whom it runs as, 0 for the caller: ProxyUID for a sidecar. Its
	// files have to be open to that user, as those below TempDir are.
	UID uint32
}

// Run starts a program in the pod, and kills it when the test ends. What it
// printed is shown if the test fails.
func (p *Pod) Run(c Command) *Running {
	p.t.Helper()
	if c.Dir == "" {
		c.Dir = TempDir(p.t)
		if err := os.Chown(c.Dir, int(c.UID), int(c.UID)); err != nil {
			p.t.Fatal(err)
		}
	}
	log := filepath.Join(c.Dir, "log")
	proc, err := start(command{host: p.Namespace, path: c.Path, args: c.Args, env: c.Env, dir: c.Dir, uid: c.UID, log: log})
	if err != nil {
		p.t.Fatal(err)
	}
	r := &Running{proc, log, p.t}
	p.t.Cleanup(func() {
		r.Kill()
		if p.t.Failed() {
			p.t.Logf("%s in %s printed:\n%s", filepath.Base(c.Path), p.Spec.Name, tail(log))
		}
	})
	return r
}

// Running is a program that was started in a pod.
type Running struct {
	process *process
	log     string
	t       testing.TB
}

// Kill ends the program at once.
func (r *Running) Kill() { r.process.kill() }

// Exited tells whether the program has ended.
func (r *Running) Exited() bool { return r.process.exited() }

// Wait waits for the program's end and returns its exit code.
func (r *Running) Wait() int {
	<-r.process.done
	return r.process.cmd.ProcessState.ExitCode()
}

// PID is the program's process id.
func (r *Running) PID() int { return r.process.cmd.Process.Pid }

// Log returns what the program has printed.
func (r *Running) Log() string {
	r.t.Helper()
	text, err := os.ReadFile(r.log)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// TempDir is t.TempDir, for files that a program of another user reads: that
// user may enter it.
func TempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
