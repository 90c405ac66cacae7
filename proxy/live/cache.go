// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"pillion/proxy/stats"
	"pillion/proxy/xds"
)

// The file of the last good configuration: the magic, then records, then the SHA-256
// of all before it. A record is four fields, each with its length (uvarint) before it:
// type, name, version, body. The first record is the head: its type is empty, its name is
// the node's, its version the time.
const (
	cacheFile  = "last-good-configuration"
	cacheMagic = "pillion last good configuration 1\n"
	// maxCache bounds what is read, in octets.
	maxCache = 512 << 20
)

// cache writes what is accepted to disk when nothing has come for a while. Guarded by
// Sink.mu, but for what says otherwise.
type cache struct {
	timer   *time.Timer
	changes uint64    // as many were taken at the last look
	dirty   bool      // something has changed since the last writing
	served  time.Time // of the configuration on disk that was loaded; zero if none was
	loaded  time.Time // when that was
	lacks   bool      // a part of it was refused
	writing sync.WaitGroup

	// file is held by who writes the file, so that an older configuration never
	// replaces a newer one. It is taken before Sink.mu.
	file sync.Mutex

	written, failed stats.Counter
}

// touch notes that something may have changed.
func (c *cache) touch(s *Sink) {
	now := s.clusters.counts.changes() + s.endpoints.counts.changes() + s.listeners.counts.changes() + s.routes.counts.changes() +
		s.extensions.counts.changes()
	if s.o.Cache == "" || s.closed || now == c.changes {
		return
	}
	c.dirty, c.changes = true, now
	if c.timer == nil {
		c.timer = time.AfterFunc(s.o.QuietFor, s.writeCache)
		return
	}
	c.timer.Reset(s.o.QuietFor)
}

func (c *cache) stop() {
	if c.timer != nil {
		c.timer.Stop()
	}
}

func (c *cache) wait() { c.writing.Wait() }

// record is one resource of the cache.
type record struct {
	typ, name, version string
	body               []byte
}

// writeCache writes all that was accepted, once the server has said all.
func (s *Sink) writeCache() {
	s.cache.file.Lock()
	defer s.cache.file.Unlock()
	s.mu.Lock()
	if s.closed || !s.cache.dirty || !s.clusters.answered || !s.listeners.answered {
		s.mu.Unlock()
		return
	}
	s.cache.dirty = false
	s.cache.writing.Add(1)
	defer s.cache.writing.Done()
	list := records(&s.clusters, nil)
	list = records(&s.endpoints, list)
	list = records(&s.routes, list)
	list = records(&s.extensions, list)
	list = records(&s.listeners, list)
	s.mu.Unlock() // bodies don't change
	if err := writeRecords(s.o.Cache, s.o.Node, list); err != nil {
		s.cache.failed.Inc()
		s.o.Logger.Warn("the last good configuration can't be kept on disk", "reason", err)
		return
	}
	s.cache.written.Inc()
}

// privateKey is what stands in a resource that holds a key in PEM.
var privateKey = []byte("PRIVATE KEY-----")

// records adds what was accepted of a type, but for what holds a private key.
func records[R any](t *table[R], list []record) []record {
	for name, e := range t.all {
		if e.good.is() && e.left.IsZero() && !bytes.Contains(e.good.body, privateKey) {
			list = append(list, record{t.typeURL, name, e.good.version, e.good.body})
		}
	}
	return list
}

// writeRecords replaces the file as a whole.
func writeRecords(dir, node string, list []record) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+cacheFile+"-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	w := newCacheWriter(f)
	w.text(cacheMagic)
	w.record(record{name: node, version: time.Now().UTC().Format(time.RFC3339)})
	for _, r := range list {
		w.record(r)
	}
	if err := w.end(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, cacheFile))
}

// cacheWriter writes the file and sums it. The first error is kept for end.
type cacheWriter struct {
	to  *bufio.Writer
	sum hash.Hash
	err error
}

func newCacheWriter(to io.Writer) *cacheWriter {
	return &cacheWriter{to: bufio.NewWriterSize(to, 64<<10), sum: sha256.New()}
}

func (w *cacheWriter) bytes(b []byte) {
	w.sum.Write(b)
	if _, err := w.to.Write(b); err != nil && w.err == nil {
		w.err = err
	}
}

func (w *cacheWriter) text(s string) { w.bytes([]byte(s)) }

func (w *cacheWriter) field(b []byte) {
	w.bytes(binary.AppendUvarint(nil, uint64(len(b))))
	w.bytes(b)
}

func (w *cacheWriter) record(r record) {
	w.field([]byte(r.typ))
	w.field([]byte(r.name))
	w.field([]byte(r.version))
	w.field(r.body)
}

func (w *cacheWriter) end() error {
	w.bytes(w.sum.Sum(nil))
	return errors.Join(w.err, w.to.Flush())
}

// LoadCache serves what was kept on disk until the server answers, and reports whether
// there was something. It is called before the server is asked. It completes the first
// configuration only if the server doesn't answer in Options.ReadyAfter: what it has to say may
// be a policy that is newer.
func (s *Sink) LoadCache() bool {
	if s.o.Cache == "" {
		return false
	}
	data, err := readCache(filepath.Join(s.o.Cache, cacheFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	var at time.Time
	var list []record
	if err == nil {
		at, list, err = parseCache(data, s.o.Node)
	}
	if err != nil {
		s.o.Logger.Warn("the last good configuration on disk is not used", "reason", err)
		return false
	}
	s.mu.Lock()
	s.cache.served, s.cache.loaded = at, time.Now()
	for _, typ := range []string{ClusterType, EndpointType, RouteType, ExtensionType, ListenerType} {
		u := &xds.Update{TypeURL: typ, Version: "cached " + at.Format(time.RFC3339)}
		for _, r := range list {
			if r.typ == typ {
				u.Resources = append(u.Resources, xds.Resource{Name: r.name, Version: r.version, Body: r.body})
			}
		}
		if err := s.apply(u, false); err != nil {
			s.cache.lacks = true
			s.o.Logger.Warn("a part of the last good configuration on disk is not used", "reason", err)
		}
	}
	s.clusters.cached, s.listeners.cached = true, true
	s.mu.Unlock()
	s.tellSubscriber()
	s.o.Logger.Warn("the last good configuration on disk is served until the control plane answers", "of", at, "resources", len(list))
	return true
}

func readCache(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCache+1))
	if err == nil && len(data) > maxCache {
		err = fmt.Errorf("%s: is longer than %d octets", path, maxCache)
	}
	return data, err
}

// parseCache reads the file of a node.
func parseCache(data []byte, node string) (at time.Time, list []record, err error) {
	body, ok := bytes.CutPrefix(data, []byte(cacheMagic))
	if !ok || len(body) < sha256.Size {
		return at, nil, errors.New("it is none, or of another version of the proxy")
	}
	end := len(data) - sha256.Size
	if sum := sha256.Sum256(data[:end]); !bytes.Equal(sum[:], data[end:]) {
		return at, nil, errors.New("its checksum is wrong")
	}
	body = body[:len(body)-sha256.Size]
	for len(body) > 0 {
		var r record
		if r, body, err = parseRecord(body); err != nil {
			return at, nil, err
		}
		list = append(list, r)
	}
	if len(list) == 0 || list[0].typ != "" {
		return at, nil, errors.New("it has no head")
	}
	if list[0].name != node {
		return at, nil, fmt.Errorf("it was kept by another node, %q", list[0].name)
	}
	at, err = time.Parse(time.RFC3339, list[0].version)
	return at, list[1:], err
}

func parseRecord(b []byte) (r record, rest []byte, err error) {
	var fields [4][]byte
	for i := range fields {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return r, nil, errors.New("a record is cut off")
		}
		fields[i], b = b[size:size+int(n)], b[size+int(n):]
	}
	// Each body by itself: the file must not be kept for one of its resources.
	return record{string(fields[0]), string(fields[1]), string(fields[2]), bytes.Clone(fields[3])}, b, nil
}
