// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"pillion/proxy/buf"
	"pillion/proxy/http"
	"pillion/proxy/netio"
	"pillion/proxy/stats"
)

// Switch gives a listener's connections to its filter chains. It is a Handler,
// immutable, and safe for concurrent use.
type Switch struct {
	// Matcher chooses one of Chains; Default, which may be nil, takes what
	// none is for.
	Matcher *Matcher
	Chains  []Handler
	Default Handler
	// TLS and HTTP tell whether the first bytes are looked at for either on
	// connections to a port; nil doesn't. They are looked at only where the
	// choice of a chain can depend on it.
	TLS, HTTP func(port uint16) bool
	// Timeout bounds the wait for the first bytes; 0 doesn't. Continue goes on
	// then with what they tell so far, which else closes the connection.
	Timeout  time.Duration
	Continue bool

	Stats      *SwitchStats
	Inspectors *InspectorStats
}

// SwitchStats are what a listener counts of connections that are not yet
// served.
type SwitchStats struct {
	PreCxTimeout, NoFilterChainMatch stats.Counter
	HandshakeTimeout                 stats.Counter
	PreCxActive                      stats.Gauge
}

// InspectorStats are what all listeners together count of first bytes, under
// the names of Envoy's listener filters.
type InspectorStats struct {
	TLSFound, TLSNotFound, SNIFound, SNINotFound stats.Counter
	ALPNFound, ALPNNotFound, HelloTooLarge       stats.Counter
	TLSClosed                                    stats.Counter
	HTTP10, HTTP11, HTTP2, HTTPNotFound          stats.Counter
	HTTPReadError                                stats.Counter
}

// CollectStats reports tls_inspector.* and http_inspector.*.
func (s *InspectorStats) CollectStats(e *stats.Emitter) {
	for _, c := range []struct {
		name string
		of   *stats.Counter
	}{
		{"tls_inspector.tls_found", &s.TLSFound}, {"tls_inspector.tls_not_found", &s.TLSNotFound},
		{"tls_inspector.sni_found", &s.SNIFound}, {"tls_inspector.sni_not_found", &s.SNINotFound},
		{"tls_inspector.alpn_found", &s.ALPNFound}, {"tls_inspector.alpn_not_found", &s.ALPNNotFound},
		{"tls_inspector.client_hello_too_large", &s.HelloTooLarge},
		{"tls_inspector.connection_closed", &s.TLSClosed},
		{"http_inspector.http10_found", &s.HTTP10}, {"http_inspector.http11_found", &s.HTTP11},
		{"http_inspector.http2_found", &s.HTTP2}, {"http_inspector.http_not_found", &s.HTTPNotFound},
		{"http_inspector.read_error", &s.HTTPReadError},
	} {
		e.Counter(c.name, "", c.of.Value())
	}
}

// Serve finds the chain of a connection and has it served.
func (s *Switch) Serve(nc net.Conn, info *http.ConnInfo) http.Rest {
	h, nc := s.choose(nc, info)
	if h == nil {
		return nil
	}
	return h.Serve(nc, info)
}

// choose returns the chain of a connection, nil if that was closed instead, and the
// connection, which still has the bytes that were looked at. What it takes of the stack
// isn't held while the connection is served.
func (s *Switch) choose(nc net.Conn, info *http.ConnInfo) (Handler, net.Conn) {
	f := Facts{Destination: parseAddr(info.OriginalDst, info.Local), Source: parseAddr("", info.Remote), TransportProtocol: rawBuffer}
	if w := s.wants(f.Destination.Port()); w.TLS || w.HTTP {
		s.Stats.PreCxActive.Inc()
		hello, peeked, ok := s.sniff(nc, w)
		s.Stats.PreCxActive.Dec()
		if !ok {
			_ = nc.Close()
			return nil, nil
		}
		f.learn(&hello)
		info.SNI, nc = hello.ServerName, peeked
	}
	h := s.Default
	if i := s.Matcher.Find(&f); i != None {
		h = s.Chains[i]
	}
	if h == nil {
		s.Stats.NoFilterChainMatch.Inc()
		if o := info.Outcome(); o != nil {
			o.Flags, o.Details = http.FlagNoRoute, "filter_chain_not_found"
		}
		_ = nc.Close()
		return nil, nil
	}
	return h, nc
}

// wants tells what the choice of a chain has to know.
func (s *Switch) wants(port uint16) Wants {
	return Wants{
		TLS:  s.Matcher.needsTLS && s.TLS != nil && s.TLS(port),
		HTTP: s.Matcher.needsHTTP && s.HTTP != nil && s.HTTP(port),
	}
}

const rawBuffer = "raw_buffer"

// learn takes over what the first bytes tell, in the words that chains use.
func (f *Facts) learn(h *Hello) {
	f.ServerName, f.ApplicationProtocols = h.ServerName, h.ALPN
	switch h.Protocol {
	case TLS:
		f.TransportProtocol = "tls"
	case HTTP10:
		f.ApplicationProtocols = []string{"http/1.0"}
	case HTTP11:
		f.ApplicationProtocols = []string{"http/1.1"}
	case HTTP2:
		f.ApplicationProtocols = []string{"h2c"}
	}
}

func parseAddr(first, second string) netip.AddrPort {
	if first == "" {
		first = second
	}
	a, _ := netip.ParseAddrPort(first) // what has none matches no range
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// sniff looks at the first bytes, which the connection that it returns still
// has. false: the connection is of no use any more.
func (s *Switch) sniff(nc net.Conn, w Wants) (h Hello, same net.Conn, ok bool) {
	if s.Timeout > 0 {
		_ = nc.SetReadDeadline(time.Now().Add(s.Timeout))
	}
	h, same, err := peekHello(nc, w)
	if s.Timeout > 0 {
		_ = nc.SetReadDeadline(time.Time{})
	}
	switch {
	case err == nil:
		s.Inspectors.count(&h, w)
		return h, same, true
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.Stats.PreCxTimeout.Inc()
		return h, same, s.Continue
	}
	if w.TLS {
		s.Inspectors.TLSClosed.Inc()
	} else {
		s.Inspectors.HTTPReadError.Inc()
	}
	return h, same, false
}

// peekHello reads until the first bytes tell what they are. Bytes of a socket
// stay in it. A client that ends in mid-sentence is taken for what it said; one
// that said nothing at all, as probes do, gets an error.
func peekHello(nc net.Conn, w Wants) (h Hello, same net.Conn, err error) {
	var in buf.Buffer
	defer in.Release()
	tcp, isSocket := nc.(*net.TCPConn)
	for {
		before := in.Len()
		if isSocket {
			err = peekMore(tcp, &in)
		} else {
			err = readMore(nc, &in)
		}
		var done bool
		h, done = Sniff(in.Bytes(), w)
		if err == io.EOF && in.Len() > 0 {
			done, err = true, nil
		}
		if done || err != nil || in.Len() == before {
			break
		}
	}
	if !isSocket {
		nc = &prefixed{Conn: nc, rest: append([]byte(nil), in.Bytes()...)}
	}
	return h, nc, err
}

// peekMore waits for more bytes than in has, and makes in all of them.
func peekMore(nc *net.TCPConn, in *buf.Buffer) error {
	have := in.Len()
	if len(in.Free()) == 0 && !in.Grow() {
		return nil
	}
	room := in.Free()
	whole := in.Bytes()[: have+len(room) : have+len(room)]
	n, err := netio.Peek(nc, whole, have)
	in.Commit(max(n-have, 0))
	return err
}

func readMore(nc net.Conn, in *buf.Buffer) error {
	if len(in.Free()) == 0 && !in.Grow() {
		return nil
	}
	n, err := nc.Read(in.Free())
	in.Commit(n)
	return err
}

// prefixed is a connection, not a socket, of which some bytes were read.
type prefixed struct {
	net.Conn
	rest []byte // owned by the reader
}

// Read gives the bytes that were read before it reads on.
func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.rest) > 0 {
		n := copy(b, p.rest)
		p.rest = p.rest[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// CloseWrite passes on what an embedded interface hides.
func (p *prefixed) CloseWrite() error {
	if w, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// count counts what was found.
func (s *InspectorStats) count(h *Hello, w Wants) {
	if w.TLS {
		either(h.Protocol == TLS, &s.TLSFound, &s.TLSNotFound)
		if h.TooLarge {
			s.HelloTooLarge.Inc()
		}
	}
	if h.Protocol == TLS {
		either(h.ServerName != "", &s.SNIFound, &s.SNINotFound)
		either(len(h.ALPN) > 0, &s.ALPNFound, &s.ALPNNotFound)
		return
	}
	if !w.HTTP {
		return
	}
	switch h.Protocol {
	case HTTP10:
		s.HTTP10.Inc()
	case HTTP11:
		s.HTTP11.Inc()
	case HTTP2:
		s.HTTP2.Inc()
	default:
		s.HTTPNotFound.Inc()
	}
}

func either(yes bool, a, b *stats.Counter) {
	if yes {
		a.Inc()
	} else {
		b.Inc()
	}
}
