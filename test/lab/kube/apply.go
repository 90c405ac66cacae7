// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	yamlv3 "go.yaml.in/yaml/v3"
)

// Apply makes the objects of a YAML text, of one or several documents, or
// replaces those that are there. Unlike kubectl it makes a namespace that is
// missing, puts an object without a namespace into default, and takes the
// status from the text, where there is one: nothing runs here that would fill
// it. All that can be applied is, and the errors of the rest are returned.
func (s *Server) Apply(text string) error {
	return s.each(text, func(r *resource, ns string, obj Object) error {
		if r.Namespaced {
			if err := s.store.ensureNamespace(ns); err != nil {
				return err
			}
		}
		name := str(obj, "metadata", "name")
		_, err := s.store.update(r, ns, name, "all", func(old Object) (Object, error) {
			delete(obj["metadata"].(Object), "resourceVersion")
			if obj["status"] == nil {
				setOrDelete(obj, "status", old["status"])
			}
			return obj, nil
		})
		if IsNotFound(err) {
			_, err = s.store.create(r, ns, obj)
		}
		return err
	})
}

// Delete removes the objects that a YAML text names. One that isn't there is
// no error.
func (s *Server) Delete(text string) error {
	return s.each(text, func(r *resource, ns string, obj Object) error {
		if _, err := s.store.delete(r, ns, str(obj, "metadata", "name")); err != nil && !IsNotFound(err) {
			return err
		}
		return nil
	})
}

// Replace applies a text, and deletes what an older one named and this one
// doesn't: a file that was changed.
func (s *Server) Replace(old, now string) error {
	type id struct {
		res      *resource
		ns, name string
	}
	left := map[id]bool{}
	// What is wrong with the old text has been said when it was applied.
	_ = s.each(old, func(r *resource, ns string, obj Object) error {
		left[id{r, ns, str(obj, "metadata", "name")}] = true
		return nil
	})
	err := s.each(now, func(r *resource, ns string, obj Object) error {
		delete(left, id{r, ns, str(obj, "metadata", "name")})
		return nil
	})
	if err != nil {
		return err
	}
	for gone := range left {
		if _, err := s.store.delete(gone.res, gone.ns, gone.name); err != nil && !IsNotFound(err) {
			return err
		}
	}
	return s.Apply(now)
}

// Get returns an object, which the caller must not change. A namespace is
// given for those that lie in one.
func (s *Server) Get(apiVersion, kind, ns, name string) (Object, error) {
	r := s.store.byKind(apiVersion, kind)
	if r == nil {
		return nil, fmt.Errorf("there is no kind %s in %s", kind, apiVersion)
	}
	return s.store.get(r, ns, name)
}

// each calls act with every object of a YAML text.
func (s *Server) each(text string, act func(r *resource, ns string, obj Object) error) error {
	var errs []error
	docs := yamlv3.NewDecoder(bytes.NewReader([]byte(text)))
	for n := 1; ; n++ {
		var doc any
		if err := docs.Decode(&doc); errors.Is(err, io.EOF) {
			return errors.Join(errs...)
		} else if err != nil {
			return errors.Join(append(errs, fmt.Errorf("document %d: %w", n, err))...)
		}
		if doc == nil {
			continue
		}
		if err := s.document(doc, act); err != nil {
			errs = append(errs, fmt.Errorf("document %d: %w", n, err))
		}
	}
}

func (s *Server) document(doc any, act func(r *resource, ns string, obj Object) error) error {
	body, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	obj, err := decode(body)
	if err != nil {
		return err
	}
	if items, ok := obj["items"].([]any); ok && obj["kind"] == "List" {
		for _, item := range items {
			if err := s.document(item, act); err != nil {
				return err
			}
		}
		return nil
	}
	r := s.store.byKind(str(obj, "apiVersion"), str(obj, "kind"))
	if r == nil {
		return fmt.Errorf("there is no kind %q in %q", str(obj, "kind"), str(obj, "apiVersion"))
	}
	meta, err := metadata(obj)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Kind, err)
	}
	name, ns := str(obj, "metadata", "name"), ""
	if name == "" {
		return fmt.Errorf("%s: metadata.name is missing", r.Kind)
	}
	if r.Namespaced {
		if ns = str(obj, "metadata", "namespace"); ns == "" {
			ns = "default"
			meta["namespace"] = ns
		}
	}
	if err := act(r, ns, obj); err != nil {
		return fmt.Errorf("%s %s/%s: %w", r.Kind, ns, name, err)
	}
	return nil
}
