// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
)

// BuildApp builds test/lab/app and returns its path.
func BuildApp(t testing.TB) string {
	t.Helper()
	path := filepath.Join(TempDir(t), "app")
	cmd := exec.Command("go", "build", "-o", path, "./test/lab/app")
	cmd.Dir = need.Root(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return path
}

// StartBookinfoApps runs the applications of Bookinfo in their pods and
// returns when they listen: productpage calls reviews, and reviews-v2 ratings.
func StartBookinfoApps(t testing.TB, n *Network, app string) {
	t.Helper()
	for name, calls := range map[string]string{"productpage-v1": "http://reviews:9080/reviews/0", "reviews-v1": "", "reviews-v2": "http://ratings:9080/ratings/0", "ratings-v1": ""} {
		p := n.Pod(name)
		p.Run(Command{Path: app, Args: []string{"-name", name, "-calls", calls}})
		p.WaitListening(9080)
	}
}

// Get makes a request from a pod, as a user: 0 for an application, ProxyUID
// for a sidecar. It returns the status and the body.
func (p *Pod) Get(app string, uid uint32, url, header string) (int, string, error) {
	p.t.Helper()
	dir := TempDir(p.t)
	proc, err := start(command{host: p.Namespace, path: app, args: []string{"-get", url, "-header", header},
		dir: dir, uid: uid, log: filepath.Join(dir, "log")})
	if err != nil {
		p.t.Fatal(err)
	}
	r := &Running{proc, filepath.Join(dir, "log"), p.t}
	if code := r.Wait(); code != 0 {
		return 0, "", errors.New(r.Log())
	}
	return splitAnswer(r.Log())
}

// splitAnswer reads what app -get prints.
func splitAnswer(text string) (int, string, error) {
	first, body, _ := strings.Cut(text, "\n")
	code, err := strconv.Atoi(first)
	return code, body, err
}

// WaitListening waits until a port of the pod takes connections from within,
// which iptables let pass.
func (p *Pod) WaitListening(port int) {
	p.t.Helper()
	rig.Until(p.t, "port "+strconv.Itoa(port)+" of "+p.Spec.Name+" is open", func() error {
		conn, err := p.DialContext(p.t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
