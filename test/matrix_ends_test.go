// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/http2"

	"pillion/test/rig"
	"pillion/test/wire"
)

// head1 writes a head of HTTP/1.
func head1(w io.Writer, start string, fields wire.Fields) error {
	var b strings.Builder
	b.WriteString(start + "\r\n")
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	_, err := io.WriteString(w, b.String()+"\r\n")
	return err
}

// body1 writes a body of HTTP/1, in chunks where it has no length.
func body1(w io.Writer, chunked, open bool, parts []string, trailers wire.Fields) error {
	var b strings.Builder
	for _, p := range parts {
		if chunked {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(p), p)
		} else {
			b.WriteString(p)
		}
	}
	if chunked && !open {
		b.WriteString("0\r\n")
		for _, f := range trailers {
			fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
		}
		b.WriteString("\r\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

var upgradeFields = wire.Fields{field("connection", "Upgrade"), field("upgrade", "websocket"),
	field("sec-websocket-version", "13"), field("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")}

const upgradeAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // of that key (RFC 6455 section 1.3)

// client1 is the client of HTTP/1.
func (lab *matrixLab) client1(proxy, host, id string, j job, fields wire.Fields) (*message, error) {
	m := &message{}
	c, err := wire.Dial(proxy, rig.Patience)
	if err != nil {
		return m, err
	}
	defer c.Close()
	fields = append(wire.Fields{field("host", host)}, fields...)
	if j.streamed {
		fields = append(fields, field("transfer-encoding", "chunked"))
	}
	if j.upgrade {
		fields = append(fields, upgradeFields...)
	}
	if err := head1(c, j.method+" /path?q=1 HTTP/1.1", fields); err != nil {
		return m, err
	}
	if !j.upgrade {
		if err := body1(c, j.streamed, j.open, j.parts, j.trailers); err != nil {
			return m, err
		}
	}
	if j.cancel {
		return m, lab.wait(id)
	}
	resp, err := c.Read(j.method)
	if resp == nil {
		m.end = "broken off"
		return m, nil
	}
	m.fields = append(wire.Fields{field(":status", strconv.Itoa(resp.Status))}, lessHop(resp.Fields)...)
	m.body, m.trailers, m.end = string(resp.Body), resp.Trailers, ended(err)
	if resp.Status == 101 {
		return m, m.tunnel1(c, j)
	}
	return m, nil
}

// tunnel1 talks the new protocol: a part in each direction, and the end.
func (m *message) tunnel1(c *wire.Client, j job) error {
	if err := c.Send(strings.Join(j.parts, "")); err != nil {
		return err
	}
	rest, err := io.ReadAll(c.Raw())
	m.body = string(rest)
	m.end = ended(err)
	return nil
}

// lessHop leaves out the fields of HTTP/1's framing, which HTTP/2 has
// otherwise.
func lessHop(fields wire.Fields) (rest wire.Fields) {
	for _, f := range fields {
		switch strings.ToLower(f.Name) {
		case "connection", "transfer-encoding", "keep-alive", "upgrade", "host":
		default:
			rest = append(rest, f)
		}
	}
	return rest
}

// client2 is the client of HTTP/2.
func (lab *matrixLab) client2(proxy, host, id string, j job, fields wire.Fields) (*message, error) {
	m := &message{}
	c, err := wire.DialH2(proxy, rig.Patience, wire.H2Options{})
	if err != nil {
		return m, err
	}
	defer c.Close()
	head := wire.RequestHead(j.method, host, "/path?q=1", fields...)
	if j.upgrade {
		head[0].Value = "CONNECT"
		head = append(wire.Fields{field(":protocol", "websocket")}, append(head, upgradeFields[2:]...)...)
	}
	whole := len(j.parts) == 0 && !j.open && !j.upgrade && !j.streamed && len(j.trailers) == 0
	stream, err := c.Open(whole, head)
	if err != nil {
		return m, err
	}
	if !j.upgrade && !whole {
		_ = body2(c, stream, j.open, j.parts, j.trailers) // an answer may come before its end
	}
	if j.cancel {
		if err := lab.wait(id); err != nil {
			return m, err
		}
		return m, errors.Join(c.Reset(stream, http2.ErrCodeCancel), c.Ping())
	}
	if s, _ := c.AwaitHead(stream); j.upgrade && s.Get(":status") == "200" {
		if err := c.Data(stream, false, []byte(strings.Join(j.parts, ""))); err != nil {
			return m, err
		}
	}
	s, err := c.Await(stream)
	m.take2(s, err)
	if j.upgrade && m.fields.Get(":status") == "200" {
		m.fields[0].Value = "101"
	}
	return m, nil
}

// take2 takes over what a stream has received.
func (m *message) take2(s wire.H2Stream, err error) {
	m.fields, m.body, m.trailers = s.Fields, string(s.Body), s.Trailers
	m.end = "end"
	if !s.Ended || err != nil {
		m.end = "broken off"
	}
}

// body2 sends a body over HTTP/2.
func body2(c *wire.H2, id uint32, open bool, parts []string, trailers wire.Fields) error {
	for i, p := range parts {
		if err := c.Data(id, i == len(parts)-1 && !open && len(trailers) == 0, []byte(p)); err != nil {
			return err
		}
	}
	switch {
	case len(trailers) > 0:
		return c.Head(id, true, trailers)
	case len(parts) == 0 && !open:
		return c.Data(id, true, nil)
	}
	return nil
}

// serve1 is the origin of HTTP/1.
func (lab *matrixLab) serve1(c *wire.Conn) {
	for {
		r, err := c.ReadHead()
		if err != nil {
			return
		}
		j := lab.jobs[r.Fields.Get("x-job")]
		m := &message{fields: append(wire.Fields{field(":method", r.Method), field(":path", r.Target), field(":authority", r.Fields.Get("host")),
			field(":protocol", r.Fields.Get("upgrade"))}, lessHop(r.Fields)...)}
		lab.arrived(r.Fields.Get("x-case"))
		if j.reply.silent {
			_, err := io.Copy(io.Discard, c.Reader)
			lab.keep(m, ended(errors.Join(err, errors.New("before its end"))))
			return
		}
		if !j.reply.early {
			err := r.ReadBody(c.Reader)
			m.body, m.trailers = string(r.Body), r.Trailers
			lab.keep(m, ended(err))
		}
		if err := lab.reply1(c, j, m); err != nil {
			return
		}
	}
}

// reply1 answers over HTTP/1. An error ends the connection.
func (lab *matrixLab) reply1(c *wire.Conn, j job, m *message) error {
	a := j.reply
	if a.interim {
		if err := head1(c, "HTTP/1.1 103 Early Hints", wire.Fields{field("link", "</x>")}); err != nil {
			return err
		}
	}
	if a.status == "" {
		return errors.New("no answer")
	}
	fields := append(wire.Fields(nil), a.fields...)
	upgraded := a.status == "101"
	chunked := fields.Get("content-length") == "" && !upgraded && a.status != "204" && a.status != "304"
	if upgraded {
		fields = append(fields, field("connection", "Upgrade"), field("upgrade", "websocket"), field("sec-websocket-accept", upgradeAccept))
	}
	if chunked {
		fields = append(fields, field("transfer-encoding", "chunked"))
	}
	if err := head1(c, "HTTP/1.1 "+a.status+" Status", fields); err != nil {
		return err
	}
	if upgraded {
		sent := strings.Join(j.parts, "")
		got := make([]byte, len(sent))
		_, err := io.ReadFull(c.Reader, got)
		m.body = string(got)
		lab.keep(m, ended(err))
	}
	if err := body1(c, chunked, a.broken, a.parts, a.trailers); err != nil {
		return err
	}
	if a.early && !upgraded {
		lab.keep(m, "not waited for")
	}
	if a.broken || upgraded || a.early {
		return errors.New("done")
	}
	return nil
}

// serve2 is the origin of HTTP/2.
func (lab *matrixLab) serve2(c *wire.H2, id uint32) {
	s := c.Snapshot(id)
	j := lab.jobs[s.Get("x-job")]
	m := &message{fields: s.Fields}
	lab.arrived(s.Get("x-case"))
	if j.reply.silent {
		s, err := c.Await(id)
		m.take2(s, err)
		m.body = ""
		lab.keep(m, m.end)
		return
	}
	if !j.reply.early {
		s, err := c.Await(id)
		m.take2(s, err)
		lab.keep(m, m.end)
	}
	if err := lab.reply2(c, id, j, m); err != nil {
		_ = c.Reset(id, http2.ErrCodeInternal) // the proxy may have gone
	}
}

// reply2 answers over HTTP/2. An error resets the stream.
func (lab *matrixLab) reply2(c *wire.H2, id uint32, j job, m *message) error {
	a := j.reply
	if a.interim {
		if err := c.Head(id, false, wire.Fields{field(":status", "103"), field("link", "</x>")}); err != nil {
			return err
		}
	}
	if a.status == "" {
		return errors.New("no answer")
	}
	upgraded := a.status == "101"
	status := a.status
	if upgraded {
		status = "200"
	}
	alone := j.method == "HEAD" || len(a.parts) == 0 && len(a.trailers) == 0
	if err := c.Head(id, alone, append(wire.Fields{field(":status", status)}, a.fields...)); err != nil || alone {
		return err
	}
	if upgraded {
		want := len(strings.Join(j.parts, ""))
		err := c.Wait(func() bool { return c.Received(id) >= want })
		m.body = string(c.Snapshot(id).Body)
		lab.keep(m, ended(err))
	}
	if err := body2(c, id, a.broken, a.parts, a.trailers); err != nil {
		return err
	}
	if a.early && !upgraded {
		lab.keep(m, "not waited for")
	}
	if a.broken {
		return errors.New("broken off")
	}
	return nil
}
