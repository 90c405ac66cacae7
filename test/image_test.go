// SPDX-License-Identifier: Apache-2.0

package test

import (
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
	"pillion/test/wire"
)

// emptyRoot makes a root folder as the Dockerfile's last stage has it: the
// binary under its two names, and nothing else.
func emptyRoot(t *testing.T) string {
	t.Helper()
	binary := binaries.Static(t)
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Fatalf("%s asks for a dynamic loader, so it can't run in an image from scratch", binary)
		}
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(root, "usr/local/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	// Another process copies: a file that this one writes may be open in a child
	// that another test is just starting, and can't be run then (ETXTBSY).
	if out, err := exec.Command("cp", binary, filepath.Join(bin, "pilot-agent")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Symlink("pilot-agent", filepath.Join(bin, "proxy")); err != nil {
		t.Fatal(err)
	}
	return root
}

// imprison makes a command run in root as a container does: as user and group
// 1337, without other groups, with the image's PATH only.
func imprison(root string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/local/bin"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 1337, Gid: 1337}}
	}
}

func TestRunsInAnEmptyRoot(t *testing.T) {
	t.Parallel()
	need.Superuser(t)
	root := emptyRoot(t)
	for _, name := range []string{"pilot-agent", "proxy"} {
		cmd := exec.Command("/usr/local/bin/"+name, "--version")
		imprison(root)(cmd)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) == "" {
			t.Errorf("%s --version: %v: %q", name, err, out)
		}
	}
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, "from outside")
	})
	mesh := filepath.Join(root, "mesh")
	if err := os.Mkdir(mesh, 0o755); err != nil {
		t.Fatal(err)
	}
	fill(t, mesh, "one-service.yaml", "port", origin.Port())
	p := rig.Start(t, "/usr/local/bin/proxy", rig.Options{Wrap: imprison(root)}, "/mesh")
	if resp := do(t, p.HTTP, get("app", "/")); resp.Status != 200 || string(resp.Body) != "from outside" {
		t.Errorf("status %d, body %q", resp.Status, resp.Body)
	}
	status, err := os.ReadFile("/proc/" + itoa(p.PID()) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t1337\t1337\t1337\t1337\n", "Gid:\t1337\t1337\t1337\t1337\n", "CapEff:\t0000000000000000\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("/proc/PID/status lacks %q", want)
		}
	}
}

// TestDockerfile reads what can't be run without a container engine.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(need.Root(t), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	_, last, ok := strings.Cut(string(text), "\nFROM scratch\n")
	if !ok {
		t.Fatal("the last stage isn't built from scratch")
	}
	for _, want := range []string{
		"COPY --from=build /out/ /\n", "ENV PATH=/usr/local/bin\n", "USER 1337:1337\n", `ENTRYPOINT ["/usr/local/bin/pilot-agent"]` + "\n",
	} {
		if !strings.Contains(last, want) {
			t.Errorf("the last stage lacks %q", want)
		}
	}
	if strings.Contains(last, "RUN ") {
		t.Error("the last stage runs a command, which takes a shell")
	}
}
