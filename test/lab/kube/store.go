// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	nethttp "net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Object is one object as JSON has it. An object that the store holds is
// never changed, only replaced.
type Object = map[string]any

// remembered is how many events a watch may be behind before it has to list
// anew.
const remembered = 50_000

type place struct{ ns, name string }

// event is one change. A created object has no old, a deleted one no now: its
// last state, with the revision of its end, is gone.
type event struct {
	rev            int64
	res            *resource
	old, now, gone Object
}

// store holds the objects.
type store struct {
	resources        []*resource // immutable
	crds, namespaces *resource   // immutable; two of resources
	keep             int         // immutable once requests come; remembered

	mu      sync.Mutex
	rev     int64                          // guarded by mu; counts changes
	objects map[*resource]map[place]Object // guarded by mu
	events  []event                        // guarded by mu; by revision, the last keep of them at least
	changed chan struct{}                  // guarded by mu; closed and replaced at each change
}

func newStore() *store {
	s := &store{resources: readServed(), objects: map[*resource]map[place]Object{}, changed: make(chan struct{}), rev: 1, keep: remembered}
	for _, r := range s.resources {
		s.objects[r] = map[place]Object{}
	}
	s.crds, s.namespaces = s.byKind("apiextensions.k8s.io/v1", "CustomResourceDefinition"), s.byKind("v1", "Namespace")
	return s
}

func (r *resource) notFound(name string) error {
	return failure(nethttp.StatusNotFound, "NotFound", "%s %q not found", strings.Trim(r.Plural+"."+r.Group, "."), name)
}

func (s *store) get(r *resource, ns, name string) (Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj := s.objects[r][place{ns, name}]
	if obj == nil {
		return nil, r.notFound(name)
	}
	return obj, nil
}

// list returns the objects that match by namespace and name, and the revision
// that they are of.
func (s *store) list(r *resource, match func(Object) bool) ([]Object, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var items []Object
	for _, obj := range s.objects[r] {
		if match(obj) {
			items = append(items, obj)
		}
	}
	slices.SortFunc(items, func(a, b Object) int {
		return cmp.Or(strings.Compare(str(a, "metadata", "namespace"), str(b, "metadata", "namespace")), strings.Compare(str(a, "metadata", "name"), str(b, "metadata", "name")))
	})
	return items, s.rev
}

// create stores a new object. It takes obj over.
func (s *store) create(r *resource, ns string, obj Object) (Object, error) {
	meta, err := metadata(obj)
	if err != nil {
		return nil, err
	}
	if got, _ := meta["namespace"].(string); r.Namespaced && got != "" && got != ns {
		return nil, failure(nethttp.StatusBadRequest, "BadRequest", "the object's namespace is %q, that of the path %q", got, ns)
	}
	name, _ := meta["name"].(string)
	if prefix, _ := meta["generateName"].(string); name == "" && prefix != "" {
		name = prefix + strings.ToLower(rand.Text()[:5])
	}
	if name == "" {
		return nil, failure(nethttp.StatusUnprocessableEntity, "Invalid", "%s: metadata.name is missing", r.Kind)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Namespaced && s.objects[s.namespaces][place{"", ns}] == nil {
		return nil, s.namespaces.notFound(ns)
	}
	if s.objects[r][place{ns, name}] != nil {
		return nil, failure(nethttp.StatusConflict, "AlreadyExists", "%s %q already exists", r.Plural, name)
	}
	meta["name"], meta["uid"], meta["generation"] = name, newUID(), float64(1)
	meta["creationTimestamp"] = time.Now().UTC().Format(time.RFC3339)
	delete(meta, "namespace")
	if r.Namespaced {
		meta["namespace"] = ns
	}
	s.put(r, place{ns, name}, nil, obj)
	return obj, nil
}

// update replaces an object by what change makes of a copy of it. With sub
// "status" only that part is taken, without it all but that part.
func (s *store) update(r *resource, ns, name, sub string, change func(Object) (Object, error)) (Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.objects[r][place{ns, name}]
	if old == nil {
		return nil, r.notFound(name)
	}
	now, err := change(clone(old))
	if err != nil {
		return nil, err
	}
	meta, err := metadata(now)
	if err != nil {
		return nil, err
	}
	if rev, _ := meta["resourceVersion"].(string); rev != "" && rev != str(old, "metadata", "resourceVersion") {
		return nil, failure(nethttp.StatusConflict, "Conflict", "Operation cannot be fulfilled on %s %q: the object has been modified; please apply your changes to the latest version and try again", r.Plural, name)
	}
	switch sub {
	case "status":
		status := now["status"]
		now = clone(old)
		setOrDelete(now, "status", status)
	case "":
		setOrDelete(now, "status", old["status"])
	}
	return s.replace(r, place{ns, name}, old, now), nil
}

// replace puts now in the place of old, and keeps what only the API may set.
func (s *store) replace(r *resource, at place, old, now Object) Object {
	meta := now["metadata"].(Object)
	for _, k := range []string{"name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion"} {
		setOrDelete(meta, k, old["metadata"].(Object)[k])
	}
	if reflect.DeepEqual(old, now) {
		return old
	}
	if !sameSpec(old, now) {
		n, _ := meta["generation"].(float64)
		meta["generation"] = n + 1
	}
	s.put(r, at, old, now)
	return now
}

// sameSpec tells whether two objects are the same but for metadata and status.
func sameSpec(a, b Object) bool {
	a, b = maps.Clone(a), maps.Clone(b)
	for _, o := range []Object{a, b} {
		delete(o, "metadata")
		delete(o, "status")
	}
	return reflect.DeepEqual(a, b)
}

func (s *store) delete(r *resource, ns, name string) (Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.objects[r][place{ns, name}]
	if old == nil {
		return nil, r.notFound(name)
	}
	s.put(r, place{ns, name}, old, nil)
	if r == s.namespaces {
		for _, r := range s.resources {
			for at, obj := range s.objects[r] {
				if r.Namespaced && at.ns == name {
					s.put(r, at, obj, nil)
				}
			}
		}
	}
	return old, nil
}

// put makes one change known. s.mu is held.
func (s *store) put(r *resource, at place, old, now Object) {
	s.rev++
	e := event{rev: s.rev, res: r, old: old, now: now}
	if now != nil {
		now["metadata"].(Object)["resourceVersion"] = strconv.FormatInt(s.rev, 10)
		s.objects[r][at] = now
	} else {
		e.gone = clone(old)
		e.gone["metadata"].(Object)["resourceVersion"] = strconv.FormatInt(s.rev, 10)
		delete(s.objects[r], at)
	}
	if s.events = append(s.events, e); len(s.events) > 2*s.keep {
		s.events = slices.Clone(s.events[s.keep:])
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// since returns the events of a kind after a revision, the revision that they
// lead to, and a channel that is closed at the next change. It fails if some
// of the events are forgotten.
func (s *store) since(r *resource, rev int64) ([]event, int64, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) > 0 && rev < s.events[0].rev-1 {
		return nil, 0, nil, failure(nethttp.StatusGone, "Expired", "too old resource version: %d (%d)", rev, s.events[0].rev)
	}
	i, _ := slices.BinarySearchFunc(s.events, rev+1, func(e event, rev int64) int { return cmp.Compare(e.rev, rev) })
	var found []event
	for _, e := range s.events[i:] {
		if e.res == r {
			found = append(found, e)
		}
	}
	return found, s.rev, s.changed, nil
}

func (s *store) ensureNamespace(name string) error {
	if _, err := s.get(s.namespaces, "", name); err == nil {
		return nil
	}
	_, err := s.create(s.namespaces, "", Object{"apiVersion": "v1", "kind": "Namespace",
		"metadata": Object{"name": name, "labels": Object{"kubernetes.io/metadata.name": name}},
		"status":   Object{"phase": "Active"}})
	return err
}

// metadata returns the object's metadata, which may not be missing.
func metadata(obj Object) (Object, error) {
	meta, ok := obj["metadata"].(Object)
	if !ok {
		return nil, failure(nethttp.StatusUnprocessableEntity, "Invalid", "the object has no metadata")
	}
	return meta, nil
}

// decode reads one object, and gives a Secret's stringData the form of data.
func decode(body []byte) (Object, error) {
	var obj Object
	if err := json.Unmarshal(body, &obj); err != nil {
		return nil, failure(nethttp.StatusBadRequest, "BadRequest", "the body is no JSON object: %v", err)
	}
	if obj == nil {
		return nil, failure(nethttp.StatusBadRequest, "BadRequest", "the body is null")
	}
	if plain, ok := obj["stringData"].(Object); ok && obj["kind"] == "Secret" {
		data, _ := obj["data"].(Object)
		if data == nil {
			data = Object{}
		}
		for k, v := range plain {
			data[k] = base64.StdEncoding.EncodeToString([]byte(fmt.Sprint(v)))
		}
		obj["data"] = data
		delete(obj, "stringData")
	}
	return obj, nil
}

func setOrDelete(obj Object, k string, v any) {
	if v == nil {
		delete(obj, k)
	} else {
		obj[k] = v
	}
}

// str returns the text at a path, or "".
func str(obj Object, path ...string) string {
	var v any = obj
	for _, p := range path {
		m, ok := v.(Object)
		if !ok {
			return ""
		}
		v = m[p]
	}
	switch v := v.(type) {
	case nil, Object, []any:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

func clone(obj Object) Object { return cloneValue(obj).(Object) }

func cloneValue(v any) any {
	switch v := v.(type) {
	case Object:
		c := make(Object, len(v))
		for k, e := range v {
			c[k] = cloneValue(e)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, e := range v {
			c[i] = cloneValue(e)
		}
		return c
	}
	return v
}

func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
