// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pillion/bench/mesh"
)

func TestPillionsCommandLine(t *testing.T) {
	dir := t.TempDir()
	job := Job{Mesh: mesh.New(2, true), Origins: [2]string{"127.0.0.1:1", "127.0.0.1:2"}, Workers: 3, Connections: 1}
	l, err := pillion{}.Prepare(Tool{Path: "/bin/proxy"}, dir, job)
	if err != nil {
		t.Fatal(err)
	}
	a := l.Spec.Args
	if len(a) != 8 || a[0] != "run" || a[1] != "--http" || a[2] != l.Addr || a[3] != "--admin" || a[5] != "--metrics" || a[6] != l.Metrics {
		t.Errorf("arguments %q with address %s and metrics %s", a, l.Addr, l.Metrics)
	}
	addrs := []string{a[2], a[4], a[6]}
	if slices.Sort(addrs); len(slices.Compact(addrs)) != 3 {
		t.Errorf("addresses %v aren't three", addrs)
	}
	if !slices.Contains(l.Spec.Env, "GOMAXPROCS=3") {
		t.Errorf("environment %q", l.Spec.Env)
	}
	if files, err := filepath.Glob(filepath.Join(a[7], "svc-*.yaml")); err != nil || len(files) != 2 {
		t.Errorf("configuration %v, %v", files, err)
	}
}

// TestPillionListensWhereTheServiceIs: of TCP there is no routing by a name, so
// the service's own address is what clients connect to.
func TestPillionListensWhereTheServiceIs(t *testing.T) {
	dir := t.TempDir()
	job := Job{Mesh: mesh.New(1, false), Downstream: mesh.TCP, Origins: [2]string{"127.0.0.1:1", "127.0.0.1:2"}, Workers: 1}
	job.Protocol = mesh.TCP
	l, err := pillion{}.Prepare(Tool{Path: "/bin/proxy"}, dir, job)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(l.Spec.Args, l.Addr) {
		t.Errorf("%s is in the arguments %q", l.Addr, l.Spec.Args)
	}
	host, port, _ := net.SplitHostPort(l.Addr)
	b, err := os.ReadFile(filepath.Join(dir, "mesh", "svc-0000.yaml"))
	if err != nil || !strings.Contains(string(b), `addresses: ["`+host+`"]`) || !strings.Contains(string(b), "number: "+port+", name: tcp") {
		t.Errorf("%v; configuration for %s:\n%s", err, l.Addr, b)
	}
}

// TestUncountedRequestsAreRefused: a proxy without metrics does less than what
// the benchmark claims.
func TestUncountedRequestsAreRefused(t *testing.T) {
	srv := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		_, _ = w.Write([]byte("istio_requests_total{} 2\n"))
	}))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	if err := (Job{}).counts(t.Context(), addr, 2); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := (Job{}).counts(ctx, addr, 3); err == nil || !strings.Contains(err.Error(), "is 2 after 3 requests") {
		t.Errorf("error %v for two counted of three", err)
	}
}

func TestPillionThatCantBeBuilt(t *testing.T) {
	t.Setenv("PILLION_BINARY", "")
	t.Setenv("PATH", t.TempDir()) // no go
	_, err := pillion{}.Locate(t.Context(), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "PILLION_BINARY") {
		t.Errorf("error %v, want one that names PILLION_BINARY", err)
	}
	t.Setenv("PILLION_BINARY", filepath.Join(t.TempDir(), "absent"))
	var missing *MissingError
	if _, err := (pillion{}).Locate(t.Context(), t.TempDir()); !errors.As(err, &missing) || !strings.Contains(err.Error(), "absent") {
		t.Errorf("error %v for a binary that isn't there", err)
	}
}
