// SPDX-License-Identifier: Apache-2.0

package inproc

import (
	"context"
	stdtls "crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"os"
	"strings"
	"testing"

	"pillion/proxy/tls/localca"
)

// Way is what carries an exchange to the proxy and on to the host.
type Way struct {
	Client2 bool // the client speaks HTTP/2, not HTTP/1
	TLS     bool // the client comes to a Gateway with TLS, not to the proxy beside it
	Host2   bool // the host is spoken to over HTTP/2

	t     testing.TB
	proxy *Proxy
	url   string
	trip  *nethttp.Transport
}

// Message is a request or a response, whatever carries it. Names of fields are
// in lower case; several values of a field are joined by ", ".
type Message struct {
	Method, Path string // of a request
	Status       int    // of a response
	Fields       map[string]string
	Body         string
	Trailers     map[string]string
	// Gone is closed when nobody waits any more for the answer to a request
	// that a host was sent.
	Gone <-chan struct{}
}

// wayHost is the host of the requests that Do sends.
const wayHost = "echo.default.svc.cluster.local"

// EachWay runs test over every way.
func EachWay(t *testing.T, test func(t *testing.T, w *Way)) {
	for i := range 8 {
		w := Way{Client2: i&1 != 0, TLS: i&2 != 0, Host2: i&4 != 0}
		t.Run(w.String(), func(t *testing.T) {
			w.t = t
			test(t, &w)
		})
	}
}

// String names the way as a test's name does.
func (w *Way) String() string {
	version := map[bool]string{false: "HTTP/1", true: "HTTP/2"}
	secure := map[bool]string{false: "", true: " over TLS"}
	return version[w.Client2] + secure[w.TLS] + " to " + version[w.Host2]
}

// Start serves one host, named echo, to clients that come this way. routes are
// the list "http" of its VirtualService.
func (w *Way) Start(routes string, host func(request Message) Message) {
	w.t.Helper()
	service, b := Service, &Backend{Port: w.serve(host)}
	if w.Host2 {
		service = Service2
	}
	edge := freeAddr(w.t)
	w.proxy = Start(w.t, map[string]string{
		"echo.yaml": service("echo", b),
		"vs.yaml": "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: echo, namespace: default}\n" +
			"spec:\n  hosts: [" + wayHost + "]\n  gateways: [mesh, edge]\n  http:\n" + routes,
		"edge.yaml": gateway(w.t, edge),
	})
	w.url = "http://" + w.proxy.Addr("http")
	if w.TLS {
		w.url = "https://" + edge.String()
	}
	w.trip = &nethttp.Transport{Protocols: protocols(w.Client2, w.TLS), DisableCompression: true,
		TLSClientConfig: &stdtls.Config{InsecureSkipVerify: true, ServerName: wayHost}} //nolint:gosec // the proxy's identity isn't what is tested
	w.t.Cleanup(w.trip.CloseIdleConnections)
}

// gateway is the YAML of a Gateway with TLS at addr, and of its certificate.
func gateway(t testing.TB, addr *net.TCPAddr) string {
	t.Helper()
	ca, err := localca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Issue("default", "edge")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {servers: [{port: {number: %d, name: https, protocol: HTTPS}, bind: %s, hosts: [%s], tls: {mode: SIMPLE, credentialName: edge}}]}
---
apiVersion: v1
kind: Secret
metadata: {name: edge, namespace: default}
type: kubernetes.io/tls
data: {tls.crt: %s, tls.key: %s}
`, addr.Port, addr.IP, wayHost, base64.StdEncoding.EncodeToString(leaf.Chain), base64.StdEncoding.EncodeToString(leaf.Key))
}

// freeAddr returns an address that nobody listens on. It isn't 127.0.0.1, of
// which the kernel takes the ports of outgoing connections, and is this
// process's own.
func freeAddr(t testing.TB) *net.TCPAddr {
	t.Helper()
	pid := os.Getpid()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, byte(1+pid>>16), byte(pid>>8), byte(pid))})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr)
}

// protocols is one version of HTTP, with or without TLS.
func protocols(http2, tls bool) *nethttp.Protocols {
	p := &nethttp.Protocols{}
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2 && tls)
	p.SetUnencryptedHTTP2(http2 && !tls)
	return p
}

// serve runs the host until the test ends, and returns its port.
func (w *Way) serve(host func(Message) Message) int {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	s := &nethttp.Server{Protocols: protocols(w.Host2, false), Handler: nethttp.HandlerFunc(func(rw nethttp.ResponseWriter, r *nethttp.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		send(rw, host(Message{Method: r.Method, Path: r.RequestURI, Fields: fieldsOf(r.Header), Body: string(body),
			Trailers: fieldsOf(r.Trailer), Gone: r.Context().Done()}))
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln)
	}()
	w.t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return ln.Addr().(*net.TCPAddr).Port
}

func send(rw nethttp.ResponseWriter, m Message) {
	for k, v := range m.Fields {
		rw.Header().Set(k, v)
	}
	for k := range m.Trailers {
		rw.Header().Add("Trailer", k)
	}
	if len(m.Trailers) == 0 {
		rw.Header().Set("Content-Length", fmt.Sprint(len(m.Body)))
	}
	rw.WriteHeader(m.Status)
	if len(m.Trailers) > 0 {
		_ = nethttp.NewResponseController(rw).Flush() // else a short body's length would be told
	}
	_, _ = io.WriteString(rw, m.Body)
	for k, v := range m.Trailers {
		rw.Header().Set(k, v)
	}
}

// Do sends a request, GET /x unless it says otherwise, and reads the whole
// answer. With trailers its body is of unknown length.
func (w *Way) Do(m Message) Message {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if m.Method == "" {
		m.Method = nethttp.MethodGet
	}
	if m.Path == "" {
		m.Path = "/x"
	}
	var body io.Reader = strings.NewReader(m.Body)
	if len(m.Trailers) > 0 {
		body = struct{ io.Reader }{body} // of which no length is known
	}
	r, err := nethttp.NewRequestWithContext(ctx, m.Method, w.url+m.Path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Host = wayHost
	if !w.TLS {
		r.Host += ":9080"
	}
	for k, v := range m.Fields {
		r.Header.Set(k, v)
	}
	for k, v := range m.Trailers {
		if r.Trailer == nil {
			r.Trailer = nethttp.Header{}
		}
		r.Trailer.Set(k, v)
	}
	answer, err := w.trip.RoundTrip(r)
	if err != nil {
		w.t.Fatalf("%s %s: %v", m.Method, m.Path, err)
	}
	defer answer.Body.Close()
	if (answer.ProtoMajor == 2) != w.Client2 {
		w.t.Errorf("the answer is in %s", answer.Proto)
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatalf("%s %s: after %d octets of the answer: %v", m.Method, m.Path, len(text), err)
	}
	return Message{Status: answer.StatusCode, Fields: fieldsOf(answer.Header), Body: string(text), Trailers: fieldsOf(answer.Trailer)}
}

func fieldsOf(h nethttp.Header) map[string]string {
	out := map[string]string{}
	for k, v := range h {
		out[strings.ToLower(k)] = strings.Join(v, ", ")
	}
	return out
}
