// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
)

// TestDebounce drives the watcher's loop with events of its own on a clock of its own.
func TestDebounce(t *testing.T) {
	const debounce = 50 * time.Millisecond
	for name, c := range map[string]struct {
		events []time.Duration // when one happens
		fires  []time.Duration // when changed is called
	}{
		"one":            {[]time.Duration{0}, []time.Duration{debounce}},
		"a burst":        {[]time.Duration{0, 20e6, 60e6, 100e6}, []time.Duration{150e6}},
		"two":            {[]time.Duration{0, 51e6}, []time.Duration{50e6, 101e6}},
		"without end":    {every(15*time.Millisecond, 2100*time.Millisecond), []time.Duration{1000e6, 2005e6, 2150e6}},
		"none":           {nil, nil},
		"after a second": {[]time.Duration{0, 1020e6}, []time.Duration{50e6, 1070e6}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &Watcher{debounce: debounce, wanted: &wanted{names: map[string]bool{"/x": true}}}
				start := time.Now()
				events := make(chan fsnotify.Event)
				var fires []time.Duration
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() {
					done <- w.loop(ctx, events, nil, func() { fires = append(fires, time.Since(start)) })
				}()
				for _, at := range c.events {
					time.Sleep(time.Until(start.Add(at)))
					events <- fsnotify.Event{Name: "/x", Op: fsnotify.Write}
					events <- fsnotify.Event{Name: "/y", Op: fsnotify.Write} // not ours
				}
				time.Sleep(time.Minute)
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if len(fires) != len(c.fires) {
					t.Fatalf("fired at %v, want %v", fires, c.fires)
				}
				for i := range fires {
					if fires[i] != c.fires[i] {
						t.Fatalf("fired at %v, want %v", fires, c.fires)
					}
				}
			})
		})
	}
}

// TestEmptyFile: a file that was truncated isn't read before it is written, but after a
// second at the latest.
func TestEmptyFile(t *testing.T) {
	for name, c := range map[string]struct{ written, fires time.Duration }{
		"written late": {320 * time.Millisecond, 370 * time.Millisecond}, // not when it is looked at
		"never":        {0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "x.yaml")
				write := func(text string) {
					if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				write("")
				w := &Watcher{debounce: 50 * time.Millisecond, wanted: &wanted{names: map[string]bool{path: true}}}
				start := time.Now()
				events := make(chan fsnotify.Event)
				var fires []time.Duration
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() {
					done <- w.loop(ctx, events, nil, func() { fires = append(fires, time.Since(start)) })
				}()
				events <- fsnotify.Event{Name: path, Op: fsnotify.Write}
				if c.written > 0 {
					time.Sleep(c.written)
					write("kind: X")
					events <- fsnotify.Event{Name: path, Op: fsnotify.Write}
				}
				time.Sleep(time.Minute)
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if len(fires) != 1 || fires[0] != c.fires {
					t.Errorf("fired at %v, want %v", fires, c.fires)
				}
			})
		})
	}
}

func every(step, until time.Duration) []time.Duration {
	var all []time.Duration
	for at := time.Duration(0); at <= until; at += step {
		all = append(all, at)
	}
	return all
}

func TestWatcherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watcher{debounce: time.Millisecond, wanted: &wanted{}}
		errs := make(chan error, 1)
		errs <- fsnotify.ErrEventOverflow // events were lost: as good as an event
		ctx, cancel := context.WithCancel(t.Context())
		fired := 0
		if err := w.loop(ctx, nil, errs, func() { fired++; cancel() }); err != nil || fired != 1 {
			t.Errorf("after an overflow: fired %d times, %v", fired, err)
		}
		broken := errors.New("broken")
		errs <- broken
		if err := w.loop(t.Context(), nil, errs, nil); !errors.Is(err, broken) {
			t.Errorf("after an error: %v", err)
		}
	})
}

// watching runs a watcher and returns a function that waits for a change.
func watching(t *testing.T, paths ...string) (wait func(what string)) {
	t.Helper()
	w, err := NewWatcher(paths, 20*time.Millisecond, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	changes := make(chan struct{}, 100)
	done := make(chan error)
	go func() { done <- w.Run(ctx, func() { changes <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t)
	})
	return func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not noticed", what)
		}
		// Steps that one change takes may be reported one by one on a busy machine.
		for quiet := false; !quiet; {
			select {
			case <-changes:
			case <-time.After(60 * time.Millisecond):
				quiet = true
			}
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatchDirectory(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.yaml": "1"})
	a := filepath.Join(dir, "a.yaml")
	wait := watching(t, dir)

	write(t, a, "2")
	wait("a write")
	write(t, filepath.Join(dir, ".a.yaml.swp"), "3")
	write(t, filepath.Join(dir, "4913"), "3")
	must(t, os.Rename(a, a+"~"))
	write(t, filepath.Join(dir, "new"), "3")
	must(t, os.Rename(filepath.Join(dir, "new"), a))
	wait("an editor's rename")
	must(t, os.Remove(a))
	wait("a removal")

	sub := filepath.Join(dir, "sub", "sub")
	must(t, os.MkdirAll(sub, 0o700))
	wait("a new directory")
	write(t, filepath.Join(sub, "b.yaml"), "1")
	wait("a file in a new directory")
	write(t, filepath.Join(sub, "b.yaml"), "2")
	wait("a write in a new directory")
	must(t, os.RemoveAll(filepath.Join(dir, "sub")))
	wait("a directory's removal")
	must(t, os.MkdirAll(sub, 0o700))
	wait("a directory that comes back")
	write(t, filepath.Join(sub, "b.yaml"), "3")
	wait("a write in a directory that came back")

	must(t, os.Rename(dir, dir+".old"))
	wait("the directory's rename")
	must(t, os.Mkdir(dir, 0o700))
	wait("the directory's return")
	write(t, a, "4")
	wait("a write in the directory after its return")
}

func TestWatchFile(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.conf": "1", "sub/b.yaml": "1"})
	a := filepath.Join(dir, "a.conf")
	missing := filepath.Join(dir, "later", "c.yaml")
	wait := watching(t, a, missing, "-")

	write(t, a, "2")
	wait("a write")
	write(t, filepath.Join(dir, "tmp"), "3")
	must(t, os.Rename(filepath.Join(dir, "tmp"), a))
	wait("a rename over it")
	must(t, os.Remove(a))
	wait("its removal")
	symlink(t, filepath.Join("sub", "b.yaml"), a)
	wait("a link in its place")
	write(t, filepath.Join(dir, "sub", "b.yaml"), "4")
	wait("a write to what it links to")
	must(t, os.Mkdir(filepath.Dir(missing), 0o700))
	wait("the directory of a missing file")
	write(t, missing, "5")
	wait("a missing file")
}

func TestWatchConfigMap(t *testing.T) {
	files := map[string]string{"a.yaml": "1", "sub/b.yaml": "1"}
	dir := configMap(t, "..1", files)
	link := filepath.Join(t.TempDir(), "current")
	symlink(t, dir, link)
	wait := watching(t, link, filepath.Join(dir, "a.yaml"))
	for _, version := range []string{"..2", "..3"} {
		swapConfigMap(t, dir, version, files)
		wait("a new version " + version)
	}
	other := configMap(t, "..1", files)
	symlink(t, other, link+".tmp")
	must(t, os.Rename(link+".tmp", link))
	wait("a new target of the link")
	swapConfigMap(t, other, "..2", files)
	wait("a new version behind the new target")
}

// TestWatchSilence checks that what isn't configuration isn't reported.
func TestWatchSilence(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.yaml": "1", "notes.txt": "1", ".git/HEAD": "1"})
	w, err := NewWatcher([]string{dir}, time.Millisecond, nil)
	must(t, err)
	defer w.Close()
	real, err := filepath.EvalSymlinks(dir)
	must(t, err)
	for name, want := range map[string]bool{
		"a.yaml": true, "b.JSON": true, "notes.txt": false, ".a.yaml.swp": false, ".git": false, ".git/HEAD": false, "a.yaml~": false,
	} {
		for _, op := range []fsnotify.Op{fsnotify.Create, fsnotify.Write, fsnotify.Remove} {
			if got := w.concerns(fsnotify.Event{Name: filepath.Join(real, name), Op: op}); got != want {
				t.Errorf("%s of %s: %v", op, name, got)
			}
		}
	}
	if !w.concerns(fsnotify.Event{Name: real, Op: fsnotify.Remove}) {
		t.Error("removal of the directory itself")
	}
}

// TestWatchTells: what can't be watched is told to who was handed in, and to nobody else.
func TestWatchTells(t *testing.T) {
	var own, process strings.Builder
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewTextHandler(&process, nil)))
	for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&own, nil)), nil} {
		w, err := NewWatcher([]string{t.TempDir()}, time.Millisecond, log)
		must(t, err)
		must(t, w.Close()) // so that no directory can be added
		w.watchAgain()
	}
	if got := own.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN msg=\"some configuration files aren't watched\"") {
		t.Errorf("told %q", got)
	}
	if process.Len() > 0 {
		t.Errorf("the process's logger got %q", process.String())
	}
}

func TestFollowEndlessLinks(t *testing.T) {
	dir := t.TempDir()
	symlink(t, "b", filepath.Join(dir, "a"))
	symlink(t, "a", filepath.Join(dir, "b"))
	w := want([]string{filepath.Join(dir, "a", "x.yaml")})
	if len(w.names) != 2 {
		t.Errorf("names %v", w.names)
	}
}
