// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
	"pillion/test/wire"
)

// referenceBackends are the workloads of the reference mesh. Its files fix
// their ports, so there is one set for all tests of the process, and a lock
// keeps another test process away from it. What one test asks of them is in
// its own requests.
type referenceBackends struct {
	once    sync.Once
	err     error
	lock    *os.File
	origins []*wire.Origin
}

var reference referenceBackends

// start starts the backends unless they run.
func (b *referenceBackends) start(t testing.TB) {
	t.Helper()
	b.once.Do(func() { b.err = b.startAll() })
	if b.err != nil {
		t.Fatal(b.err)
	}
}

func (b *referenceBackends) startAll() error {
	path := filepath.Join(os.TempDir(), "pillion-reference-mesh.lock")
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	b.lock = lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	for _, w := range []struct{ name, port string }{
		{"v1-a", "19081"}, {"v1-b", "19082"}, {"v2-a", "19083"}, {"v2-b", "19084"},
		{"ratings", "19085"}, {"upload", "19086"},
	} {
		o, err := wire.Serve(w.name, "127.0.0.1:"+w.port, answerReference)
		if err != nil {
			return fmt.Errorf("backend %s of the reference mesh: %w", w.name, err)
		}
		b.origins = append(b.origins, o)
	}
	return nil
}

func (b *referenceBackends) close() {
	for _, o := range b.origins {
		o.Close()
	}
	if b.lock != nil {
		b.lock.Close()
	}
}

// answerReference answers with the backend's name, and with status 500 where
// the request's field x-fail has it in its list.
func answerReference(w io.Writer, r *wire.Request) error {
	for name := range strings.SplitSeq(r.Fields.Get("x-fail"), ",") {
		if name == r.Origin {
			return wire.Answer(w, r, 500, r.Origin+"\n")
		}
	}
	return wire.Text(w, r, r.Origin+"\n")
}

// startReference runs the proxy on files of the reference mesh, and returns
// it with the folder of its files.
func startReference(t testing.TB, numbers string, args ...string) (*rig.Proxy, string) {
	t.Helper()
	dir := referenceFiles(t, numbers)
	reference.start(t)
	return rig.Start(t, binaries.Static(t), rig.Options{Args: args}, dir), dir
}

// get is a GET of a mesh host, as a client sends it that knows no proxy.
func get(host, path string, fields ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\n", path, host)
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}

func do(t testing.TB, addr, raw string) *wire.Response {
	t.Helper()
	resp, err := wire.Do(addr, raw, rig.Patience)
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return resp
}

func TestRouteByHeader(t *testing.T) {
	t.Parallel()
	p, _ := startReference(t, "10 20 31")
	for _, c := range []struct {
		what, version string
		fields        []string
	}{
		{"end-user: jason", "v2", []string{"end-user: jason"}},
		{"the name in another case", "v2", []string{"End-User: jason"}},
		{"no end-user", "v1", nil},
		{"another end-user", "v1", []string{"end-user: tom"}},
		{"a longer value", "v1", []string{"end-user: jason2"}},
		{"the value in another case", "v1", []string{"end-user: Jason"}},
	} {
		for range 50 {
			resp := do(t, p.HTTP, get("reviews:9080", "/reviews/1", c.fields...))
			if origin := resp.Fields.Get("x-origin"); resp.Status != 200 || !strings.HasPrefix(origin, c.version+"-") {
				t.Fatalf("%s: status %d from %q, want 200 from %s", c.what, resp.Status, origin, c.version)
			}
		}
	}
	// Each version's load is spread over both of its hosts.
	tally := wire.Load{Addr: p.HTTP, Request: get("reviews:9080", "/reviews/1"), Conns: 4, Count: 200, Patience: rig.Patience}.Run()
	if tally.Failed > 0 || tally.Origin["v1-a"] == 0 || tally.Origin["v1-b"] == 0 {
		t.Errorf("200 requests went to %v, %d failed (%v)", tally.Origin, tally.Failed, tally.Failure)
	}
}

// TestCurl runs the two commands that a person tries first.
func TestCurl(t *testing.T) {
	t.Parallel()
	curl := need.Program(t, "curl")
	p, _ := startReference(t, "10 20 31")
	for _, args := range [][]string{
		{"-x", "http://" + p.HTTP, "http://reviews:9080/reviews/1"},
		{"--noproxy", "*", "-H", "Host: reviews:9080", "http://" + p.HTTP + "/reviews/1"},
		{"-x", "http://" + p.HTTP, "http://reviews.default.svc.cluster.local:9080/reviews/1"},
		{"--noproxy", "*", "-H", "Host: reviews.default:9080", "http://" + p.HTTP + "/reviews/1"},
	} {
		args = append([]string{"-sS", "-w", "%{http_code}", "-H", "end-user: jason"}, args...)
		out, err := exec.Command(curl, args...).CombinedOutput()
		if err != nil || (string(out) != "v2-a\n200" && string(out) != "v2-b\n200") {
			t.Errorf("curl %s: %v: %q, want the answer of v2", strings.Join(args, " "), err, out)
		}
	}
}
