// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"encoding/pem"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"pillion/proxy/http"
)

// requestOptions say what a server is told of a request. Immutable.
type requestOptions struct {
	allowed    names // nil: all
	disallowed names
	rawHeaders bool

	maxBody     int // 0: the body isn't shown
	partialBody bool
	packAsBytes bool

	peerCertificate bool
	tlsSession      bool
	labels          map[string]string // of the workload beside the proxy
	extensions      map[string]string
	namespaces      []string // of metadata
}

// body returns what the server sees of the body, and whether that is only a
// part; ok is false where there is none to show.
func (o *requestOptions) body(ex *http.Exchange) (data []byte, partial, ok bool) {
	if o.maxBody == 0 || ex.EarlyBody == nil {
		return nil, false, false
	}
	data = ex.EarlyBody.Data
	if len(data) > o.maxBody {
		return data[:o.maxBody], true, true
	}
	return data, !ex.EarlyBody.Whole, true
}

// headers calls f for each field that the server may see, the parts of the
// request line first.
func (o *requestOptions) headers(ex *http.Exchange, f func(name string, value []byte)) {
	h := &ex.Req
	visit := func(name string, value []byte) {
		if o.disallowed.has(name) || o.allowed != nil && !o.allowed.has(name) {
			return
		}
		f(name, value)
	}
	visit(":authority", h.Authority)
	visit(":path", h.Path)
	visit(":method", h.RawMethod)
	visit(":scheme", h.Scheme)
	for _, fl := range h.Fields.All() {
		// A client's own word about partial bodies must not pass for ours.
		if name := strings.ToLower(string(fl.Name)); name != string(partialBodyName) {
			visit(name, fl.Value)
		}
	}
}

// merged returns the fields with the values of equal names joined by commas.
func (o *requestOptions) merged(ex *http.Exchange) map[string]string {
	m := make(map[string]string, ex.Req.Fields.Len()+4)
	o.headers(ex, func(name string, value []byte) {
		if old, ok := m[name]; ok {
			m[name] = old + "," + printable(value)
		} else {
			m[name] = printable(value)
		}
	})
	return m
}

// printable makes UTF-8 of a value, since messages of gRPC hold nothing else
// (Envoy: MessageUtil::sanitizeUtf8String).
func printable(v []byte) string {
	if utf8.Valid(v) {
		return string(v)
	}
	var b strings.Builder
	for len(v) > 0 {
		r, n := utf8.DecodeRune(v)
		if r == utf8.RuneError && n == 1 {
			b.WriteByte('!')
		} else {
			b.Write(v[:n])
		}
		v = v[n:]
	}
	return b.String()
}

// message returns what a server of gRPC is told.
func (o *requestOptions) message(ex *http.Exchange) *authv3.CheckRequest {
	service, _ := ex.Req.Fields.Get(http.HeaderXEnvoyDownstreamServiceCluster)
	a := connectionAttributes(ex.Conn, o.peerCertificate, o.tlsSession, o.labels)
	a.Source.Service = printable(service)
	a.Request = &authv3.AttributeContext_Request{Time: timestamppb.New(http.WallTime(ex.Start)), Http: o.http(ex)}
	a.ContextExtensions = o.extensions
	a.MetadataContext = &corev3.Metadata{FilterMetadata: o.metadata(&ex.Metadata)}
	a.RouteMetadataContext = &corev3.Metadata{}
	return &authv3.CheckRequest{Attributes: a}
}

func (o *requestOptions) http(ex *http.Exchange) *authv3.AttributeContext_HttpRequest {
	h := &ex.Req
	r := &authv3.AttributeContext_HttpRequest{
		Id: strconv.FormatUint(ex.Random, 10), Method: printable(h.RawMethod), Path: printable(h.Path),
		Host: printable(h.Authority), Scheme: printable(h.Scheme), Protocol: h.Protocol.String(),
	}
	if ex.EarlyBody != nil {
		r.Size = int64(len(ex.EarlyBody.Data))
	}
	body, partial, ok := o.body(ex)
	switch {
	case ok && o.packAsBytes:
		r.RawBody = body
	case ok:
		r.Body = printable(body)
	}
	if o.rawHeaders {
		r.HeaderMap = &corev3.HeaderMap{}
		put := func(name string, value []byte) {
			r.HeaderMap.Headers = append(r.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: value})
		}
		o.headers(ex, put)
		if ok {
			put(string(partialBodyName), boolText(partial))
		}
		return r
	}
	r.Headers = o.merged(ex)
	if ok {
		r.Headers[string(partialBodyName)] = string(boolText(partial))
	}
	return r
}

func boolText(b bool) []byte {
	if b {
		return valueTrue
	}
	return valueFalse
}

func (o *requestOptions) metadata(m *http.Metadata) map[string]*structpb.Struct {
	var out map[string]*structpb.Struct
	for _, ns := range o.namespaces {
		v, _ := m.Get(ns)
		object, ok := v.(map[string]any)
		if !ok {
			continue
		}
		s, err := structpb.NewStruct(object)
		if err != nil {
			continue // nothing that JSON has
		}
		if out == nil {
			out = map[string]*structpb.Struct{}
		}
		out[ns] = s
	}
	return out
}

// connectionAttributes tell of the two ends of a connection.
func connectionAttributes(c *http.ConnInfo, certificate, session bool, labels map[string]string) *authv3.AttributeContext {
	if c == nil {
		c = &http.ConnInfo{}
	}
	a := &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: address(c.Remote)},
		Destination: &authv3.AttributeContext_Peer{Address: address(c.Destination()), Labels: labels},
	}
	if session {
		a.TlsSession = &authv3.AttributeContext_TLSSession{Sni: c.SNI}
	}
	if c.TLS == nil {
		return a
	}
	// Of a peer that is not verified nothing is told: who is asked might
	// believe it.
	if p := c.TLS.Peer; p != nil && c.TLS.PeerVerified {
		a.Source.Principal = principal(p)
		if certificate && len(p.Chain) > 0 {
			block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Chain[0]})
			a.Source.Certificate = strings.ReplaceAll(url.QueryEscape(string(block)), "+", "%20")
		}
	}
	if own := c.TLS.Own; own != nil {
		a.Destination.Principal = principal(own)
	}
	return a
}

// principal is the first URI, else the first DNS name, else the subject of a
// certificate.
func principal(c *http.Certificate) string {
	switch {
	case len(c.URIs) > 0:
		return printable([]byte(c.URIs[0]))
	case len(c.DNS) > 0:
		return printable([]byte(c.DNS[0]))
	}
	return printable([]byte(c.Subject))
}

// address is host:port, or the path of a Unix socket, in Envoy's words.
func address(a string) *corev3.Address {
	host, port, err := net.SplitHostPort(a)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: a}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)}}}}
}
