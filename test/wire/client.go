// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Response is what came back for one request.
type Response struct {
	Message
	Proto   string // HTTP/1.1
	Status  int
	Reason  string
	Interim []*Response // 1xx responses that came first, heads only
}

// Client is one connection to a server. It isn't safe for concurrent use.
type Client struct {
	conn net.Conn
	br   *bufio.Reader
}

// Dial connects to addr. All that the client does has to be done within
// patience.
func Dial(addr string, patience time.Duration) (*Client, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		conn.Close()
		return nil, err
	}
	return &Client{conn, bufio.NewReaderSize(conn, 16<<10)}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// CloseWrite tells the server that no more comes, and leaves the other
// direction open.
func (c *Client) CloseWrite() error { return c.conn.(*net.TCPConn).CloseWrite() }

// Extend gives the client patience from now on.
func (c *Client) Extend(patience time.Duration) error {
	return c.conn.SetDeadline(time.Now().Add(patience))
}

// RemoteAddr returns the server's address.
func (c *Client) RemoteAddr() string { return c.conn.RemoteAddr().String() }

// Send writes raw bytes.
func (c *Client) Send(raw string) error {
	_, err := io.WriteString(c.conn, raw)
	return err
}

// Write writes raw bytes, as Send does.
func (c *Client) Write(p []byte) (int, error) { return c.conn.Write(p) }

// Raw reads the bytes that no other method has taken, such as those of a body
// after ReadInterim.
func (c *Client) Raw() io.Reader { return c.br }

// Read reads the response to a request with the given method, interim ones
// included. io.EOF means that the server closed the connection instead of
// answering. Along with an error comes what was parsed before it.
func (c *Client) Read(method string) (*Response, error) {
	var interim []*Response
	for {
		r := &Response{}
		err := c.readOne(r, method)
		if err == nil && r.Status/100 == 1 && r.Status != 101 {
			interim = append(interim, r)
			continue
		}
		if r.Start == "" {
			r = nil
		} else {
			r.Interim = interim
		}
		return r, err
	}
}

// ReadInterim reads one head, which may be that of an interim response; its
// body, if it has one, is left unread.
func (c *Client) ReadInterim() (*Response, error) {
	r := &Response{}
	if err := readHead(c.br, &r.Message); err != nil {
		return nil, err
	}
	return r, r.parseStart()
}

func (c *Client) readOne(r *Response, method string) error {
	if err := readHead(c.br, &r.Message); err != nil {
		return err
	}
	if err := r.parseStart(); err != nil {
		return err
	}
	// RFC 9112 section 6.3: these have no body whatever their fields say.
	if r.Status/100 == 1 || r.Status == 204 || r.Status == 304 || method == "HEAD" {
		r.Framing = NoBody
		return nil
	}
	return r.readBody(c.br, true)
}

func (r *Response) parseStart() error {
	proto, rest, _ := strings.Cut(r.Start, " ")
	code, reason, ok := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if !ok || err != nil || len(code) != 3 || !strings.HasPrefix(proto, "HTTP/1.") {
		return fmt.Errorf("status line %q", r.Start)
	}
	r.Proto, r.Status, r.Reason = proto, status, reason
	return nil
}

// WaitClosed reads until the server closes the connection and returns what
// still came. A reset is a way to close; a server that keeps the connection
// open past the client's patience is an error.
func (c *Client) WaitClosed() ([]byte, error) {
	rest, err := io.ReadAll(c.br)
	if errors.Is(err, syscall.ECONNRESET) {
		err = nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("the connection stayed open")
	}
	return rest, err
}

// Do makes one connection, sends raw and reads the response.
func Do(addr, raw string, patience time.Duration) (*Response, error) {
	c, err := Dial(addr, patience)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.Send(raw); err != nil {
		return nil, err
	}
	method, _, _ := strings.Cut(raw, " ")
	return c.Read(method)
}

// IsReset tells whether the peer reset the connection.
func IsReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
