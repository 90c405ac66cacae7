// SPDX-License-Identifier: Apache-2.0

// Package kube is a stand-in for the Kubernetes API, in memory and in this
// process, that is enough for an unmodified istiod: discovery, objects with
// get, list, watch, create, update, patch and delete, reviews of tokens and of
// access, tokens of service accounts, and the forwarding of ports.
//
// It is no API server. There is no admission and no schema, nothing is given
// defaults but what Apply says, everyone may do everything, a strategic merge
// patch is a JSON merge patch, and finalizers hold nothing back. What it does
// do, it does as an API server: conflicts, selectors, revisions, and watches
// that lose no event.
package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	nethttp "net/http"
	"strings"
)

// maxBody bounds what a request may carry.
const maxBody = 16 << 20

// Server is the API. It serves HTTP, and the rest of its methods are for the
// process that it is in. All are safe for concurrent use.
type Server struct {
	// Dial is how ports of pods are forwarded; nil: none are. It is not to be
	// changed once the API is served.
	Dial Dialer

	store  *store
	issuer *issuer // immutable
}

// New returns an API that holds the namespaces default, kube-system and
// istio-system, and the definitions of the custom resources of Istio and of
// the Gateway API.
func New() (*Server, error) {
	iss, err := newIssuer()
	if err != nil {
		return nil, err
	}
	s := &Server{store: newStore(), issuer: iss}
	for _, ns := range []string{"default", "kube-system", "istio-system"} {
		if err := s.store.ensureNamespace(ns); err != nil {
			return nil, err
		}
	}
	for _, r := range s.store.resources {
		if !r.custom {
			continue
		}
		if _, err := s.store.create(s.store.crds, "", r.definition()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	answer, code, err := s.route(w, r)
	switch {
	case err != nil:
		code, answer = statusOf(err)
	case answer == nil:
		return // it has been written
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer) // the client may have gone
}

// route answers what is about no object itself. A nil answer has been
// written already.
func (s *Server) route(w nethttp.ResponseWriter, r *nethttp.Request) (any, int, error) {
	switch path := strings.TrimSuffix(r.URL.Path, "/"); path {
	case "/healthz", "/livez", "/readyz":
		_, _ = io.WriteString(w, "ok")
		return nil, 0, nil
	case "/version":
		return Object{"major": "1", "minor": "34", "gitVersion": "v1.34.0-lab", "platform": "linux/amd64"}, nethttp.StatusOK, nil
	case "/openid/v1/jwks":
		return s.issuer.keys(), nethttp.StatusOK, nil
	case "/.well-known/openid-configuration":
		return Object{"issuer": Issuer, "jwks_uri": "http://" + r.Host + "/openid/v1/jwks", "response_types_supported": []any{"id_token"},
			"subject_types_supported": []any{"public"}, "id_token_signing_alg_values_supported": []any{"RS256"}}, nethttp.StatusOK, nil
	default:
		if page := s.store.discovery(path); page != nil {
			return page, nethttp.StatusOK, nil
		}
	}
	if answer, ours, err := s.review(r); ours {
		return answer, nethttp.StatusCreated, err
	}
	t, err := s.store.target(r.URL.Path)
	if err != nil {
		return nil, 0, err
	}
	if t.res.Plural == "pods" && t.sub == "portforward" {
		return nil, 0, s.forward(w, r, t)
	}
	switch r.Method {
	case nethttp.MethodGet:
		return s.read(w, r, t)
	case nethttp.MethodPost, nethttp.MethodPut, nethttp.MethodPatch:
		return s.change(r, t)
	case nethttp.MethodDelete:
		return s.remove(r, t)
	}
	return nil, 0, failure(nethttp.StatusMethodNotAllowed, "MethodNotAllowed", "%s is no method for %s", r.Method, r.URL.Path)
}

// read answers get and list, and writes a watch.
func (s *Server) read(w nethttp.ResponseWriter, r *nethttp.Request, t target) (any, int, error) {
	view := viewOf(r, t)
	if t.name != "" {
		obj, err := s.store.get(t.res, t.ns, t.name)
		if err != nil {
			return nil, 0, err
		}
		return view.one(obj), nethttp.StatusOK, nil
	}
	sel, err := selectorOf(r.URL.Query(), t.ns)
	if err != nil {
		return nil, 0, err
	}
	if v := r.URL.Query().Get("watch"); v == "true" || v == "1" {
		return nil, 0, s.watch(w, r, t, view, sel)
	}
	items, rev := s.store.list(t.res, sel.matches)
	return view.list(items, rev), nethttp.StatusOK, nil
}

// change answers create, update and patch.
func (s *Server) change(r *nethttp.Request, t target) (any, int, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return nil, 0, failure(nethttp.StatusBadRequest, "BadRequest", "the body: %v", err)
	}
	view := viewOf(r, t)
	if t.sub != "" && t.sub != "status" {
		return nil, 0, failure(nethttp.StatusNotFound, "NotFound", "%s has no subresource %s here", t.res.Plural, t.sub)
	}
	if r.Method == nethttp.MethodPatch {
		obj, err := s.patch(r.Header.Get("Content-Type"), t, body)
		if err != nil {
			return nil, 0, err
		}
		return view.one(obj), nethttp.StatusOK, nil
	}
	obj, err := decode(body)
	if err != nil {
		return nil, 0, err
	}
	if r.Method == nethttp.MethodPut {
		if got := str(obj, "metadata", "name"); got != t.name {
			return nil, 0, failure(nethttp.StatusBadRequest, "BadRequest", "the object's name is %q, that of the path %q", got, t.name)
		}
		obj, err = s.store.update(t.res, t.ns, t.name, t.sub, func(Object) (Object, error) { return obj, nil })
		if err != nil {
			return nil, 0, err
		}
		return view.one(obj), nethttp.StatusOK, nil
	}
	if obj, err = s.store.create(t.res, t.ns, obj); err != nil {
		return nil, 0, err
	}
	return view.one(obj), nethttp.StatusCreated, nil
}

// remove answers delete, of one object and of many.
func (s *Server) remove(r *nethttp.Request, t target) (any, int, error) {
	if t.name != "" {
		obj, err := s.store.delete(t.res, t.ns, t.name)
		if err != nil {
			return nil, 0, err
		}
		return viewOf(r, t).one(obj), nethttp.StatusOK, nil
	}
	sel, err := selectorOf(r.URL.Query(), t.ns)
	if err != nil {
		return nil, 0, err
	}
	items, _ := s.store.list(t.res, sel.matches)
	for _, obj := range items {
		if _, err := s.store.delete(t.res, str(obj, "metadata", "namespace"), str(obj, "metadata", "name")); err != nil && !IsNotFound(err) {
			return nil, 0, err
		}
	}
	return Object{"kind": "Status", "apiVersion": "v1", "status": "Success"}, nethttp.StatusOK, nil
}

// statusError is a failure in the form that clients of Kubernetes know.
type statusError struct {
	code            int
	reason, message string
}

func (e *statusError) Error() string { return e.message }

func failure(code int, reason, format string, args ...any) error {
	return &statusError{code, reason, fmt.Sprintf(format, args...)}
}

// IsNotFound tells whether an error says that there is no such object.
func IsNotFound(err error) bool {
	var e *statusError
	return errors.As(err, &e) && e.code == nethttp.StatusNotFound
}

func statusOf(err error) (int, Object) {
	var e *statusError
	if !errors.As(err, &e) {
		e = &statusError{nethttp.StatusInternalServerError, "InternalError", err.Error()}
	}
	return e.code, Object{"kind": "Status", "apiVersion": "v1", "metadata": Object{}, "status": "Failure",
		"code": e.code, "reason": e.reason, "message": e.message}
}
