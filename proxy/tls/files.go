// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"pillion/proxy/stats"
)

// Times of the file source. Istio's agent waits as long for a mount to settle.
const (
	filesDebounce = 100 * time.Millisecond
	filesMaxDelay = time.Second
	// filesPoll is how often files are looked at without having been told of a
	// change: some file systems don't tell, and a folder may not be there yet.
	filesPoll = 30 * time.Second
	// filesRetry is how soon files that could not be used are read again; it
	// doubles up to filesPoll.
	filesRetry = 100 * time.Millisecond
)

// Names of secrets that are files: Istio's for a DestinationRule's
// clientCertificate, privateKey and caCertificates. A list of revoked
// certificates may follow the anchors.
const (
	certPrefix   = "file-cert:" // <certificate>~<key>
	rootPrefix   = "file-root:" // <anchors>[~<crl>]
	systemAnchor = "system"     // file-root:system
)

// systemBundles are where distributions keep the machine's own anchors
// (crypto/x509/root_linux.go has the same list).
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// Files keeps secrets that are files as the files are. It watches folders,
// because a mount and an editor replace files and don't write to them; a
// certificate and a key that don't belong together are read again shortly,
// never used.
type Files struct {
	secrets *Secrets
	logger  *slog.Logger
	kick    chan struct{} // buffered: there is a new file to read

	mu    sync.Mutex
	files []*secretFile // guarded by mu; each one is owned by Run
	named map[string]bool

	unwatched stats.Counter // attempts to watch a folder that failed
}

// secretFile is one secret and the files that it is made of.
type secretFile struct {
	secret      *Secret
	chain, key  string // of a key pair
	anchor, crl string // of anchors
	want        string

	failing string        // the last complaint, empty when the files are good
	retry   time.Duration // until the next attempt, while failing
	due     time.Time
}

// NewFiles returns a source that reads every file-cert: and file-root: secret
// that anybody asks for, and what Pair and Roots name.
func NewFiles(secrets *Secrets, logger *slog.Logger) *Files {
	f := &Files{secrets: secrets, logger: logger, kick: make(chan struct{}, 1), named: map[string]bool{}}
	secrets.OnWanted(f.wanted)
	return f
}

func (f *Files) wanted(name string) {
	if rest, ok := strings.CutPrefix(name, certPrefix); ok {
		if chain, key, ok := strings.Cut(rest, "~"); ok {
			f.Pair(name, chain, key, "")
			return
		}
		f.secrets.Secret(name).Fail("file", errors.New("the name is not of the form file-cert:<certificate>~<key>"))
	}
	if rest, ok := strings.CutPrefix(name, rootPrefix); ok {
		anchor, crl, _ := strings.Cut(rest, "~")
		if anchor == systemAnchor {
			anchor = systemBundle()
		}
		f.Roots(name, anchor, crl)
	}
}

func systemBundle() string {
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		return file
	}
	for _, path := range systemBundles {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return systemBundles[0]
}

// Pair makes a secret of the files of a certificate and of its key. want is
// the identity that it has to be for; empty: any.
func (f *Files) Pair(name, chain, key, want string) {
	f.add(name, &secretFile{chain: chain, key: key, want: want})
}

// Roots makes a secret of a file of trust anchors. crl may be empty.
func (f *Files) Roots(name, anchors, crl string) {
	f.add(name, &secretFile{anchor: anchors, crl: crl})
}

func (f *Files) add(name string, file *secretFile) {
	f.mu.Lock()
	if f.named[name] {
		f.mu.Unlock()
		return
	}
	f.named[name] = true
	f.mu.Unlock()
	file.secret = f.secrets.Secret(name)
	f.mu.Lock()
	f.files = append(f.files, file)
	f.mu.Unlock()
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// Load reads all the files once and returns what is wrong with them.
func (f *Files) Load() error {
	var errs []error
	for _, file := range f.all() {
		errs = append(errs, file.read())
	}
	return errors.Join(errs...)
}

func (f *Files) all() []*secretFile {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*secretFile(nil), f.files...)
}

// Run reads the files whenever they change, until ctx ends.
func (f *Files) Run(ctx context.Context) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("files can't be watched: %w", err)
	}
	defer notify.Close()
	var since time.Time // of the first change that was not read yet; zero: none
	f.readAll(notify, true)
	timer := time.NewTimer(f.next())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.kick:
			f.readAll(notify, true)
			timer.Reset(f.next())
		case _, ok := <-notify.Events:
			if !ok {
				return errors.New("files are not watched any more")
			}
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			timer.Reset(min(filesDebounce, since.Add(filesMaxDelay).Sub(now)))
		case err, ok := <-notify.Errors:
			if !ok {
				return errors.New("files are not watched any more")
			}
			// Too many changes at once: what they were is seen by reading all.
			f.logger.Warn("watching the files of certificates", "reason", err)
			timer.Reset(filesDebounce)
		case <-timer.C:
			f.readAll(notify, !since.IsZero())
			since = time.Time{}
			timer.Reset(f.next())
		}
	}
}

// next is how long to wait before some file has to be read again.
func (f *Files) next() time.Duration {
	wait := filesPoll
	now := time.Now()
	for _, file := range f.all() {
		if file.failing != "" {
			wait = min(wait, max(file.due.Sub(now), time.Millisecond))
		}
	}
	return wait
}

// readAll reads the files and watches where they are now. changed says that
// something has, so that files that failed are read before they are due.
func (f *Files) readAll(notify *fsnotify.Watcher, changed bool) {
	now := time.Now()
	for _, file := range f.all() {
		f.unwatched.Add(file.watch(notify))
		if changed || file.failing == "" || !now.Before(file.due) {
			f.readOne(file, now)
		}
	}
}

func (f *Files) readOne(file *secretFile, now time.Time) {
	err := file.read()
	if err == nil {
		if file.failing != "" {
			f.logger.Info("the certificate's files are good again", "secret", file.secret.Name())
		}
		file.failing, file.retry = "", 0
		return
	}
	if file.failing != err.Error() && file.retry > 0 {
		// The first time it may be that the files are being replaced.
		f.logger.Error("a certificate's files can't be used; what was served is served on", "secret", file.secret.Name(), "reason", err)
	}
	file.failing = err.Error()
	file.retry = min(max(file.retry*2, filesRetry), filesPoll)
	file.due = now.Add(file.retry)
}

// read puts what the files hold into the secret.
func (s *secretFile) read() error {
	if s.chain != "" {
		return s.readPair()
	}
	ca, err := readFile(s.anchor)
	if err != nil {
		return s.fail(err)
	}
	a := Anchors{CA: ca}
	if s.crl != "" {
		if a.CRL, err = readFile(s.crl); err != nil {
			return s.fail(err)
		}
	}
	return s.secret.SetAnchors(a, "file "+s.anchor)
}

func (s *secretFile) readPair() error {
	chain, err := readFile(s.chain)
	if err != nil {
		return s.fail(err)
	}
	key, err := readFile(s.key)
	if err != nil {
		return s.fail(err)
	}
	// That they belong together is checked there.
	return s.secret.SetKeyPair(KeyPair{Chain: chain, Key: key}, s.want, "file "+s.chain)
}

func (s *secretFile) fail(err error) error {
	s.secret.Fail("file", err)
	return fmt.Errorf("secret %s: %w", s.secret.Name(), err)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is no regular file", path), err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(text) > maxPEM {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxPEM)
	}
	return text, err
}

// Failures returns how often the files of a secret couldn't be used, and how often a folder
// of them couldn't be watched.
func (f *Files) Failures() (unused, unwatched uint64) {
	for _, file := range f.all() {
		unused += file.secret.Status().Failures
	}
	return unused, f.unwatched.Value()
}

// watch watches the folders on the way to the files, those of symbolic links
// included, and returns how many can't be. To watch a folder twice changes nothing.
func (s *secretFile) watch(notify *fsnotify.Watcher) (failed uint64) {
	for _, path := range []string{s.chain, s.key, s.anchor, s.crl} {
		if path == "" {
			continue
		}
		for range 8 { // links on the way
			if notify.Add(filepath.Dir(path)) != nil {
				failed++ // a folder that isn't there is polled for
			}
			target, err := os.Readlink(path)
			if err != nil {
				break
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(path), target)
			}
			path = target
		}
	}
	return failed
}
