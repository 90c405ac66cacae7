// SPDX-License-Identifier: Apache-2.0

package router

import (
	"bytes"
	"strconv"

	"pillion/proxy/http"
	"pillion/proxy/match"
)

// Reply is the answer of a Redirect or Direct route. Immutable.
type Reply struct {
	Status int
	// Body is that of a Direct route.
	Body string
	// Location tells what a Redirect changes in the request's URL.
	Location Location

	// toTLS sends the client to the same URL by TLS.
	toTLS bool
}

// Location is what a redirect replaces; empty parts stay as requested.
type Location struct {
	Scheme string
	Host   string // may have a port
	Port   uint32 // 0: that of the request, unless Host is set
	// Path replaces the path, and with a query of its own the query too.
	Path string
	// Prefix replaces what the path criterion matched, unless it is nil.
	Prefix []byte
	// Pattern replaces matches in the path, unless it is nil.
	Pattern    *match.Rewrite
	StripQuery bool
}

// Direct begins the answer of a Redirect or Direct route: it puts a
// redirect's Location into ex.Resp.Fields and returns the status and the
// body. The caller makes the rest of the head, and calls ApplyResponse.
//
// A redirect that rewrites the path leaves the new one in ex.Req, as Envoy
// does, for the access log.
func (r *Route) Direct(ex *http.Exchange) (status int, body string) {
	p := r.Reply
	switch {
	case p.toTLS:
		u := ex.Scratch(len("https://") + len(ex.Req.Authority) + len(ex.Req.Path))[:0]
		u = append(append(append(u, "https://"...), ex.Req.Authority...), ex.Req.Path...)
		ex.Resp.Fields.AddID(http.HeaderLocation, u)
	case r.Kind == Redirect || p.Status/100 == 3:
		// Envoy makes a Location for every status of the 300s, and so for a
		// direct response with one.
		ex.Resp.Fields.AddID(http.HeaderLocation, r.location(ex))
	}
	return p.Status, p.Body
}

// location makes the URL of a redirect (Envoy: Http::Utility::newUri).
func (r *Route) location(ex *http.Exchange) []byte {
	l := &r.Reply.Location
	path := r.redirectPath(ex)
	from := scheme(&ex.Req)
	var buf [1024]byte
	u := buf[:0]
	if l.Scheme != "" {
		u = append(u, l.Scheme...)
	} else {
		u = append(u, from...)
	}
	to := u
	u = append(u, "://"...)
	host := ex.Req.Authority[:portStart(ex.Req.Authority)]
	port := ex.Req.Authority[len(host):]
	if l.Host != "" {
		u = append(u, l.Host...)
	} else {
		u = append(u, host...)
	}
	switch {
	case l.Port != 0:
		u = strconv.AppendUint(append(u, ':'), uint64(l.Port), 10)
	case l.Host == "" && !isDefaultPort(from, to, port):
		u = append(u, port...)
	}
	return ex.KeepBytes(append(u, path...))
}

// isDefaultPort reports whether a port is only the default of the scheme that
// a redirect leaves behind.
func isDefaultPort(from, to, port []byte) bool {
	return string(from) == "http" && string(to) == "https" && string(port) == ":80" ||
		string(from) == "https" && string(to) == "http" && string(port) == ":443"
}

// redirectPath returns the path and the query of a redirect.
func (r *Route) redirectPath(ex *http.Exchange) []byte {
	l := &r.Reply.Location
	old := ex.Req.Path
	path, _ := match.CutQuery(old)
	query := old[len(path):]
	var buf [1024]byte
	out := buf[:0]
	switch {
	case l.Path != "":
		if l.Path[0] != '/' {
			out = append(out, '/')
		}
		out = append(out, l.Path...)
		if bytes.IndexByte(out, '?') >= 0 {
			return ex.KeepBytes(out)
		}
	case l.Prefix != nil:
		out = append(append(out, l.Prefix...), path[r.Match.Path.Matched(path):]...)
	case l.Pattern != nil:
		out = l.Pattern.Append(out, path)
	default:
		out = append(out, path...)
	}
	kept := ex.KeepBytes(append(out, query...))
	if (l.Prefix != nil || l.Pattern != nil) && l.Path == "" {
		ex.OriginalPath = old
		ex.Req.Path = kept
		if !r.vhost.opt.SuppressEnvoyHeaders {
			ex.Req.Fields.SetID(http.HeaderXEnvoyOriginalPath, old)
		}
	}
	if l.StripQuery {
		return kept[:len(out)]
	}
	return kept
}
