// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	maxFileSize  = 64 << 20  // bytes of one file
	maxTotalSize = 256 << 20 // bytes of all files of a Load
	maxFiles     = 100_000
)

// stdinPath is the path that stands for standard input.
const stdinPath = "-"

// lister finds the files that paths name.
type lister struct {
	files []string        // in the order of reading, as named to people
	seen  map[string]bool // real paths of files and directories that were visited
	dirs  []string        // real paths of directories that were visited
	links []string        // symbolic links that were found in directories
	out   *report
}

// list expands paths: a file stands for itself, a directory for the configuration files
// below it, sorted by name. Symbolic links are followed, for files as for directories,
// because that is how Kubernetes mounts a ConfigMap; what they lead to is read once.
// Hidden entries are passed over, and with them the "..data" and "..2006_01_02…" of such
// a mount.
func list(paths []string, out *report) *lister {
	l := &lister{seen: map[string]bool{}, out: out}
	for _, p := range paths {
		if p == stdinPath {
			if l.first(p) {
				l.files = append(l.files, p)
			}
			continue
		}
		info, err := os.Stat(p)
		switch {
		case err != nil:
			l.fail(p, err)
		case !info.IsDir():
			l.addFile(p, realPath(p))
		default:
			before := len(l.files)
			l.walk(p, realPath(p))
			if len(l.files) == before {
				out.addWarning(Problem{File: p, Reason: "no .yaml, .yml or .json file in this directory"})
			}
		}
	}
	return l
}

// realPath returns the absolute path to which links lead; where they lead to nothing
// that has a path, such as /dev/fd/63, the path itself.
func realPath(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return path
	}
	return real
}

// first reports whether a real path is met for the first time.
func (l *lister) first(real string) bool {
	if l.seen[real] {
		return false
	}
	l.seen[real] = true
	return true
}

func (l *lister) addFile(path, real string) {
	if !l.first(real) {
		return
	}
	if len(l.files) == maxFiles {
		l.out.addError(Problem{File: path, Reason: fmt.Sprintf("more than %d files; name a smaller directory", maxFiles)})
		return
	}
	l.files = append(l.files, path)
}

// walk adds the configuration files of a directory and its sub-directories.
func (l *lister) walk(dir, real string) {
	if !l.first(real) {
		return
	}
	l.dirs = append(l.dirs, real)
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		l.fail(dir, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path, real := filepath.Join(dir, e.Name()), filepath.Join(real, e.Name())
		mode := e.Type()
		if mode&fs.ModeSymlink != 0 {
			l.links = append(l.links, path)
			info, err := os.Stat(path)
			if err != nil {
				if isConfigName(path) {
					l.fail(path, err)
				}
				continue
			}
			mode, real = info.Mode().Type(), realPath(path)
		}
		switch {
		case mode.IsDir():
			l.walk(path, real)
		case mode.IsRegular() && isConfigName(path):
			l.addFile(path, real)
		}
	}
}

// isConfigName reports whether a file found in a directory is configuration.
func isConfigName(path string) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// fail reports a path that can't be used. The path isn't said twice.
func (l *lister) fail(path string, err error) {
	l.out.addError(Problem{File: path, Reason: pathReason(err)})
}

func pathReason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// readFile reads a whole file, or standard input, up to maxFileSize.
func readFile(path string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if path != stdinPath {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	} else if stdin == nil {
		return nil, errors.New("standard input can't be read here")
	}
	data, err := io.ReadAll(io.LimitReader(r, maxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("larger than %d MiB", maxFileSize>>20)
	}
	return data, nil
}
