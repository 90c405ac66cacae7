// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// until waits for a condition; it is looked at whenever a file may have been read.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it did not come: %s", what)
		}
	}
}

func writeFiles(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func runFiles(t *testing.T, f *Files) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func serial(s *Secret) string {
	if st := s.Status(); len(st.Chain) > 0 {
		return st.Chain[0].SerialNumber.String()
	}
	return ""
}

// TestKubernetesMount replaces files as a kubelet does: a new folder, and the
// link ..data turned over to it.
func TestKubernetesMount(t *testing.T) {
	ca := newTestCA(t, "root")
	dir := t.TempDir()
	publish := func(generation string, kp KeyPair) {
		t.Helper()
		writeFiles(t, filepath.Join(dir, generation), map[string][]byte{"cert-chain.pem": kp.Chain, "key.pem": kp.Key, "root-cert.pem": ca.pem})
		tmp := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink(generation, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	first := ca.issue(serverID, nil)
	publish("..1", first)
	for _, name := range []string{"cert-chain.pem", "key.pem", "root-cert.pem"} {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	secrets := NewSecrets()
	f := NewFiles(secrets, slog.New(slog.DiscardHandler))
	f.Pair("default", filepath.Join(dir, "cert-chain.pem"), filepath.Join(dir, "key.pem"), serverID)
	f.Roots("ROOTCA", filepath.Join(dir, "root-cert.pem"), "")
	if err := f.Load(); err != nil {
		t.Fatal(err)
	}
	runFiles(t, f)
	s := secrets.Secret("default")
	if got, want := serial(s), leafOf(t, first).SerialNumber.String(); got != want {
		t.Fatalf("certificate %s, not %s", got, want)
	}
	for i := range 3 {
		next := ca.issue(serverID, nil)
		publish("..next"+string(rune('a'+i)), next)
		until(t, "the new certificate", func() bool { return serial(s) == leafOf(t, next).SerialNumber.String() })
	}
	if st := s.Status(); st.Updates != 4 || st.Failures != 0 || !strings.HasPrefix(st.Source, "file ") {
		t.Errorf("%+v", st)
	}
}

// TestTornPair writes the certificate, and its key only later: the old pair
// is served until the new one is whole.
func TestTornPair(t *testing.T) {
	ca := newTestCA(t, "root")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	old, next := ca.issue(serverID, nil), ca.issue(serverID, nil)
	writeFiles(t, dir, map[string][]byte{"c.pem": old.Chain, "k.pem": old.Key})
	secrets := NewSecrets()
	// A context asks for the secret before there is a source, as for one of a DestinationRule.
	s := secrets.Secret("file-cert:" + cert + "~" + key)
	runFiles(t, NewFiles(secrets, slog.New(slog.DiscardHandler)))
	<-s.Ready()
	writeFiles(t, dir, map[string][]byte{"c.pem": next.Chain})
	// While it is written the file may be seen empty, which is another failure.
	until(t, "a failure of the pair", func() bool { return strings.Contains(s.Status().LastError, "private key does not match") })
	if got := serial(s); got != leafOf(t, old).SerialNumber.String() {
		t.Errorf("a torn pair is served: %s", got)
	}
	writeFiles(t, dir, map[string][]byte{"k.pem": next.Key})
	until(t, "the whole pair", func() bool { return serial(s) == leafOf(t, next).SerialNumber.String() })
	if s.Status().LastError != "" {
		t.Errorf("still failing: %s", s.Status().LastError)
	}
}

// TestFilesComeLate: the folder isn't there when the secret is asked for.
func TestFilesComeLate(t *testing.T) {
	ca := newTestCA(t, "root")
	dir := filepath.Join(t.TempDir(), "later")
	secrets := NewSecrets()
	f := NewFiles(secrets, slog.New(slog.DiscardHandler))
	runFiles(t, f)
	if unused, unwatched := f.Failures(); unused+unwatched != 0 {
		t.Errorf("without a file %d and %d failures", unused, unwatched)
	}
	s := secrets.Secret("file-root:" + filepath.Join(dir, "ca.pem"))
	until(t, "a failure", func() bool {
		unused, unwatched := f.Failures()
		return unused > 0 && unwatched > 0
	})
	writeFiles(t, dir, map[string][]byte{"ca.pem": ca.pem})
	<-s.Ready()
	// Garbage, and a file that vanishes, leave the anchors alone.
	writeFiles(t, dir, map[string][]byte{"ca.pem": []byte("garbage")})
	until(t, "a complaint", func() bool { return strings.Contains(s.Status().LastError, "no PEM block") })
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	until(t, "another", func() bool { return strings.Contains(s.Status().LastError, "no such file") })
	if len(s.Status().Anchors) != 1 {
		t.Error("the anchors are gone")
	}
}

func TestSystemRoots(t *testing.T) {
	ca := newTestCA(t, "root")
	dir := t.TempDir()
	writeFiles(t, dir, map[string][]byte{"all.pem": ca.pem})
	t.Setenv("SSL_CERT_FILE", filepath.Join(dir, "all.pem"))
	secrets := NewSecrets()
	f := NewFiles(secrets, slog.New(slog.DiscardHandler))
	s := secrets.Secret("file-root:system")
	if err := f.Load(); err != nil || len(s.Status().Anchors) != 1 {
		t.Errorf("%v, %+v", err, s.Status())
	}
}
