// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"sync"
	"testing"
)

// Request is one request as it reached an origin.
type Request struct {
	Message
	Origin         string // the origin's name
	Conn           int64  // number of the connection, counted from 1
	Method, Target string
}

// Handler answers one request by writing bytes to w. Returning an error makes
// the origin close the connection.
type Handler func(w io.Writer, r *Request) error

// ErrClose is what a Handler returns to have the connection closed after what
// it wrote.
var ErrClose = errors.New("close the connection")

// ErrReset is what a Handler returns to have the connection reset.
var ErrReset = errors.New("reset the connection")

// Origin is an HTTP/1.1 server on one port that can answer anything.
type Origin struct {
	// Name is how the origin calls itself. Immutable.
	Name string
	// Addr is host:port. Immutable.
	Addr string

	serveConn func(c *Conn) // immutable

	ln    net.Listener
	serve sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool // guarded by mu
	count  int64             // guarded by mu; connections ever accepted
	bytes  bytes.Buffer      // guarded by mu; all that was received, while tee is set
	tee    bool              // guarded by mu
	closed bool              // guarded by mu
}

// Conn is an origin's side of one connection.
type Conn struct {
	net.Conn
	Reader *bufio.Reader // reads what the peer sent, and records it
	ID     int64         // number of the connection, counted from 1
}

// ReadHead reads the head of one request and leaves its body, if it has one,
// unread. io.EOF means that the peer is done.
func (c *Conn) ReadHead() (*Request, error) {
	r := &Request{Conn: c.ID}
	return r, r.readHead(c.Reader)
}

// ReadBody reads the body of a request whose head was read by ReadHead.
func (r *Request) ReadBody(br *bufio.Reader) error { return r.readBody(br, false) }

// NewOrigin serves addr (port 0 for any) until the test ends.
func NewOrigin(t testing.TB, name, addr string, handler Handler) *Origin {
	t.Helper()
	o, err := Serve(name, addr, handler)
	if err != nil {
		t.Fatalf("origin %s: %v", name, err)
	}
	t.Cleanup(o.Close)
	return o
}

// NewRawOrigin is an origin whose connections are all handed to serve, which
// may do with them what it likes. They are closed when it returns.
func NewRawOrigin(t testing.TB, serve func(c *Conn)) *Origin {
	t.Helper()
	o, err := listen("raw", "127.0.0.1:0", serve)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// Serve is NewOrigin for an origin that outlives one test; the caller closes
// it.
func Serve(name, addr string, handler Handler) (*Origin, error) {
	return listen(name, addr, func(c *Conn) { answerAll(c, name, handler) })
}

func listen(name, addr string, serve func(c *Conn)) (*Origin, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	o := &Origin{Name: name, Addr: ln.Addr().String(), serveConn: serve, ln: ln, conns: map[net.Conn]bool{}}
	o.serve.Go(o.accept)
	return o, nil
}

// Port returns the port in decimal.
func (o *Origin) Port() string {
	_, port, _ := net.SplitHostPort(o.Addr)
	return port
}

// Close stops the origin and waits for its goroutines.
func (o *Origin) Close() {
	o.mu.Lock()
	o.closed = true
	o.ln.Close()
	for conn := range o.conns {
		conn.Close()
	}
	o.mu.Unlock()
	o.serve.Wait()
}

// CloseConns closes every open connection, as a server that has had enough of
// idle ones does, and returns how many there were.
func (o *Origin) CloseConns() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	for conn := range o.conns {
		conn.Close()
	}
	return len(o.conns)
}

// Accepted returns how many connections were ever accepted.
func (o *Origin) Accepted() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}

// Record starts a recording of every byte that is received from now on, over
// all connections.
func (o *Origin) Record() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tee = true
	o.bytes.Reset()
}

// Recorded returns what was received since Record.
func (o *Origin) Recorded() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes.String()
}

func (o *Origin) accept() {
	for {
		conn, err := o.ln.Accept()
		if err != nil {
			return
		}
		o.mu.Lock()
		if o.closed {
			o.mu.Unlock()
			conn.Close()
			return
		}
		o.conns[conn] = true
		o.count++
		id := o.count
		o.mu.Unlock()
		o.serve.Go(func() {
			o.serveConn(&Conn{Conn: conn, Reader: bufio.NewReaderSize(recorder{conn, o}, 16<<10), ID: id})
			conn.Close()
			o.mu.Lock()
			delete(o.conns, conn)
			o.mu.Unlock()
		})
	}
}

// recorder copies what is read from the connection into the recording.
type recorder struct {
	net.Conn
	o *Origin
}

func (r recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.o.mu.Lock()
	if r.o.tee {
		r.o.bytes.Write(p[:n])
	}
	r.o.mu.Unlock()
	return n, err
}

// answerAll reads requests and has them answered until one side has enough.
func answerAll(c *Conn, name string, handler Handler) {
	for {
		r := &Request{Origin: name, Conn: c.ID}
		if err := r.read(c); err != nil {
			if err != io.EOF {
				// The answer of a strict origin; the test sees it as a 400
				// that the proxy didn't make.
				fmt.Fprintf(c, "HTTP/1.1 400 Bad Request\r\nx-origin-says: %q\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", err)
			}
			return
		}
		if err := handler(c, r); err != nil {
			if errors.Is(err, ErrReset) {
				_ = c.Conn.(*net.TCPConn).SetLinger(0) // fails only on a closed connection
			}
			return
		}
		if strings.EqualFold(r.Fields.Get("connection"), "close") {
			return
		}
	}
}

// read reads one request. An expectation is met at once, as most servers do.
func (r *Request) read(c *Conn) error {
	if err := r.readHead(c.Reader); err != nil {
		return err
	}
	if strings.EqualFold(r.Fields.Get("expect"), "100-continue") {
		if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return err
		}
	}
	return r.readBody(c.Reader, false)
}

func (r *Request) readHead(br *bufio.Reader) error {
	if err := readHead(br, &r.Message); err != nil {
		return err
	}
	method, rest, _ := strings.Cut(r.Start, " ")
	target, proto, ok := strings.Cut(rest, " ")
	if !ok || !strings.HasPrefix(proto, "HTTP/1.") {
		return fmt.Errorf("request line %q", r.Start)
	}
	r.Method, r.Target = method, target
	return nil
}

// Text answers with status 200, the given fields and body.
func Text(w io.Writer, r *Request, body string, fields ...Field) error {
	return Answer(w, r, 200, body, fields...)
}

// Answer answers with a status, the given fields and body, framed by its
// length.
func Answer(w io.Writer, r *Request, status int, body string, fields ...Field) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nx-origin: %s\r\n", status, nethttp.StatusText(status), r.Origin)
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if status != 204 && status != 304 {
		fmt.Fprintf(&b, "content-length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	if r.Method != "HEAD" && status != 204 && status != 304 {
		b.WriteString(body)
	}
	_, err := w.Write(b.Bytes())
	return err
}
