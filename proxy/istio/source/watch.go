// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// maxDelay is how long a change may wait for writing to pause, so that files which are
// written all the time are still read.
const maxDelay = time.Second

// Watcher tells when the files that paths name have changed. Files are watched by way of
// their directories, because editors and Kubernetes replace files and don't write to
// them. It sees new files and sub-directories, files that an editor or a deployment
// renames into place, and symbolic links that change their target anywhere on the way to
// a file, such as the "..data" of a mounted ConfigMap.
type Watcher struct {
	paths    []string
	debounce time.Duration
	log      *slog.Logger
	notify   *fsnotify.Watcher
	wanted   *wanted // owned by Run once it has begun
}

// NewWatcher begins to watch. Changes from now on are reported by Run, so who must miss
// none makes the Watcher before Load. The paths are those of Load; standard input isn't
// watched.
//
// debounce is how long writing must have paused before a change is reported; 50 ms takes
// an editor's or a deployment's several steps for one. What goes wrong later on is told to
// log; nil: to nobody.
func NewWatcher(paths []string, debounce time.Duration, log *slog.Logger) (*Watcher, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("can't watch files: %w", err)
	}
	w := &Watcher{paths: paths, debounce: debounce, log: log, notify: notify}
	if err := w.update(); err != nil {
		notify.Close()
		return nil, err
	}
	return w, nil
}

// Close ends watching when Run hasn't been called.
func (w *Watcher) Close() error { return w.notify.Close() }

// Run calls changed after each change, once writing has paused or has gone on for a
// second, and never twice at a time. A file that is empty is still being written to: an
// editor that doesn't rename truncates a file before it writes. It returns nil when ctx
// is done, after the last call of changed has returned, and an error when watching has
// broken down.
func (w *Watcher) Run(ctx context.Context, changed func()) error {
	defer w.notify.Close()
	return w.loop(ctx, w.notify.Events, w.notify.Errors, func() {
		w.watchAgain()
		changed()
	})
}

// watchAgain watches what the paths lead to now: directories may have come or gone. What is
// written to a new one before it is watched is still read, because changed comes after.
func (w *Watcher) watchAgain() {
	if err := w.update(); err != nil {
		w.log.Warn("some configuration files aren't watched", "error", err)
	}
}

func (w *Watcher) loop(ctx context.Context, events <-chan fsnotify.Event, errs <-chan error, fire func()) error {
	var (
		timer *time.Timer // nil while nothing has changed
		due   <-chan time.Time
		limit time.Time           // the latest moment to report
		files = map[string]bool{} // what has changed
	)
	stir := func() {
		now := time.Now()
		if timer == nil {
			limit = now.Add(maxDelay)
			timer = time.NewTimer(w.debounce)
			due = timer.C
			return
		}
		timer.Reset(min(w.debounce, limit.Sub(now)))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-events:
			if !ok {
				return nil
			}
			if w.concerns(ev) {
				files[ev.Name] = true
				stir()
			}
		case err, ok := <-errs:
			if !ok {
				return nil
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("can't watch files any more: %w", err)
			}
			stir() // events were lost, any of which might have been ours
		case <-due:
			if now := time.Now(); now.Before(limit) && anyEmpty(files) {
				timer.Reset(min(w.debounce, limit.Sub(now)))
				continue
			}
			timer, due = nil, nil
			clear(files)
			fire()
		}
	}
}

// anyEmpty reports whether one of the files is there and empty.
func anyEmpty(files map[string]bool) bool {
	for name := range files {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			return true
		}
	}
	return false
}

// concerns reports whether an event may change what Load reads.
func (w *Watcher) concerns(ev fsnotify.Event) bool {
	if w.wanted.names[ev.Name] || w.wanted.dirs[ev.Name] {
		return true
	}
	base := filepath.Base(ev.Name)
	if !w.wanted.dirs[filepath.Dir(ev.Name)] || strings.HasPrefix(base, ".") {
		return false
	}
	if isConfigName(base) {
		return true
	}
	if !ev.Has(fsnotify.Create) {
		return false // a file that isn't configuration, such as an editor's backup
	}
	info, err := os.Stat(ev.Name)
	if err != nil || !info.IsDir() {
		return false
	}
	// Watch at once, so that what is written next puts the report off. If that fails,
	// the update before the report says so.
	w.wanted.dirs[ev.Name] = true
	_ = w.notify.Add(ev.Name)
	return true
}

// update watches what the paths lead to now and nothing else. It goes on after an error,
// so that as much as possible is watched, and returns the last one.
func (w *Watcher) update() error {
	var failed error
	w.wanted = want(w.paths)
	for dir := range w.wanted.watch {
		err := w.notify.Add(dir)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
			// What has just been removed is reported by the watch on its parent.
		case errors.Is(err, syscall.ENOSPC):
			failed = fmt.Errorf("can't watch %s: too many watches for this user; raise fs.inotify.max_user_watches", dir)
		default:
			failed = fmt.Errorf("can't watch %s: %w", dir, err)
		}
	}
	for _, dir := range w.notify.WatchList() {
		if !w.wanted.watch[dir] {
			// It fails when the directory is gone, and the watch with it.
			_ = w.notify.Remove(dir)
		}
	}
	return failed
}

// wanted is what to watch, in absolute paths without symbolic links but for the last part.
type wanted struct {
	watch map[string]bool // directories to watch
	dirs  map[string]bool // those of them in which every configuration file counts
	names map[string]bool // files, links and missing entries that count wherever they are
}

// want finds what decides over what Load reads from the paths.
func want(paths []string) *wanted {
	w := &wanted{watch: map[string]bool{}, dirs: map[string]bool{}, names: map[string]bool{}}
	var named []string
	for _, p := range paths {
		if p != stdinPath {
			named = append(named, p)
			w.follow(p)
		}
	}
	l := list(named, &report{}) // Load reports what is wrong with them
	for _, link := range l.links {
		w.follow(link)
	}
	for _, dir := range l.dirs {
		w.watch[dir], w.dirs[dir] = true, true
	}
	return w
}

// maxLinks bounds the symbolic links on the way to a file, as Linux does.
const maxLinks = 40

// follow walks a path as the system does, part by part, and notes every symbolic link on
// the way and what it leads to in the end, or the first part that is missing: the names
// whose change could make the path lead elsewhere.
func (w *wanted) follow(path string) {
	path, err := filepath.Abs(path)
	if err != nil {
		return // the working directory is gone, and relative paths lead nowhere
	}
	at := "/"
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, part)
		info, err := os.Lstat(next)
		if err != nil {
			w.note(at, next)
			return
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		w.note(at, next)
		to, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	w.note(filepath.Dir(at), at)
}

func (w *wanted) note(dir, name string) {
	w.watch[dir] = true
	w.names[name] = true
}
