// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	nethttp "net/http"
	"strconv"
	"time"
)

// watch writes the changes of a kind, one JSON object a line, until the client
// goes or the time that it asked for is over.
func (s *Server) watch(w nethttp.ResponseWriter, r *nethttp.Request, t target, view view, sel selector) error {
	query := r.URL.Query()
	ctx := r.Context()
	if seconds, err := strconv.Atoi(query.Get("timeoutSeconds")); err == nil && seconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		defer cancel()
	}
	rev, err := strconv.ParseInt(query.Get("resourceVersion"), 10, 64)
	if err != nil && query.Get("resourceVersion") != "" {
		return failure(nethttp.StatusBadRequest, "BadRequest", "resourceVersion: %q is no number", query.Get("resourceVersion"))
	}
	initial := query.Get("sendInitialEvents") == "true"
	// "Any version" is served from now, after what is there (API concepts,
	// "Semantics for watch").
	fromNow := initial || rev == 0
	if !fromNow {
		if _, _, _, err := s.store.since(t.res, rev); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(nethttp.StatusOK)
	out := &eventWriter{enc: json.NewEncoder(w), flush: nethttp.NewResponseController(w)}
	if fromNow {
		var items []Object
		items, rev = s.store.list(t.res, sel.matches)
		for _, obj := range items {
			out.write("ADDED", view.one(obj))
		}
		if initial {
			out.write("BOOKMARK", view.bookmark(rev))
		}
	}
	out.send()
	for out.err == nil {
		events, now, changed, err := s.store.since(t.res, rev)
		if err != nil {
			_, status := statusOf(err)
			out.write("ERROR", status)
			out.send()
			return nil
		}
		for _, e := range events {
			if kind, obj := e.seenBy(sel); kind != "" {
				out.write(kind, view.one(obj))
			}
		}
		if len(events) > 0 {
			out.send()
		}
		rev = now
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// seenBy is what a change is to a watch that sees only some objects.
func (e event) seenBy(sel selector) (kind string, obj Object) {
	was, is := e.old != nil && sel.matches(e.old), e.now != nil && sel.matches(e.now)
	switch {
	case was && is:
		return "MODIFIED", e.now
	case is:
		return "ADDED", e.now
	case was && e.now != nil:
		return "DELETED", e.now
	case was:
		return "DELETED", e.gone
	}
	return "", nil
}

// eventWriter writes events until the client is gone.
type eventWriter struct {
	enc   *json.Encoder
	flush *nethttp.ResponseController
	err   error
}

func (o *eventWriter) write(kind string, obj Object) {
	if o.err == nil {
		o.err = o.enc.Encode(Object{"type": kind, "object": obj})
	}
}

func (o *eventWriter) send() {
	if o.err == nil {
		o.err = o.flush.Flush()
	}
}
