// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"crypto/rand"
	"crypto/sha1" // what RFC 6455 asks for; it protects nothing
	"encoding/base64"
	"time"

	"pillion/proxy/http"
)

// errNoConnect: the host speaks HTTP/2 without extended CONNECT (RFC 8441), so
// that a request to switch the protocol can't be put to it.
var errNoConnect = &http.Error{Side: http.SideLocal, Kind: http.KindUnsupported, Status: 503,
	Flag: http.FlagUpstreamProtocolError, Detail: "upstream_reset_before_response_started{extended_connect_not_supported}",
	Body: "upstream connect error or disconnect/reset before headers. reset reason: protocol error"}

var (
	protocolWebSocket = "websocket"
	fieldKey          = []byte("sec-websocket-key")
	fieldAccept       = []byte("sec-websocket-accept")
)

// keyLen and acceptLen are the lengths of the values of these fields.
const (
	keyLen    = 24
	acceptLen = 28
)

// upgrade makes a request to switch the protocol one that the host can take.
func (c *Call) upgrade() *http.Error {
	req := &c.ex.Req
	if req.Upgrade == nil {
		return nil
	}
	if c.stream != nil {
		return c.awaitConnect()
	}
	if req.ExtendedConnect && http.EqualFoldString(req.Upgrade, protocolWebSocket) {
		c.addKey()
	}
	return nil
}

// addKey adds the Sec-WebSocket-Key that a host of HTTP/1 asks for (RFC 6455
// section 4.1) and that an extended CONNECT leaves out (RFC 8441 section 5).
func (c *Call) addKey() {
	fields := &c.ex.Req.Fields
	if _, ok := fields.Lookup(http.HeaderOther, fieldKey); ok {
		return
	}
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	key := c.ex.Scratch(keyLen)
	base64.StdEncoding.Encode(key, nonce[:])
	fields.Add(fieldKey, key)
	c.madeKey = true
}

// accept is what a server has to answer to a key (RFC 6455 section 4.2.2).
func (c *Call) accept(key []byte) []byte {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	sum := sha1.Sum(append(append(make([]byte, 0, keyLen+len(guid)), key...), guid...))
	out := c.ex.Scratch(acceptLen)
	base64.StdEncoding.Encode(out, sum[:])
	return out
}

// awaitConnect waits until the host has said whether it takes extended
// CONNECT, which it does at the connection's start.
func (c *Call) awaitConnect() *http.Error {
	conn := c.stream.H2
	allowed, settling := conn.AllowsConnect()
	if settling != nil {
		var late <-chan time.Time
		if d := c.tryDeadline(); d != 0 {
			t := time.NewTimer(time.Duration(d - http.Now()))
			defer t.Stop()
			late = t.C
		}
		select {
		case <-settling:
			allowed, _ = conn.AllowsConnect()
		case <-c.Cancelled():
			return errCancelled
		case <-late:
			return c.timeUp()
		}
	}
	if !allowed && conn.Usable() {
		return errNoConnect
	}
	return nil
}

// switched reports whether the response means that the host has switched to
// the protocol that the client asked for. It gives one that does the form of
// HTTP/1, whatever the host speaks.
func (c *Call) switched() (bool, *http.Error) {
	req, resp := &c.ex.Req, &c.ex.Resp
	success := resp.Status >= 200 && resp.Status < 300
	switch {
	case req.Upgrade == nil && resp.Status == 101:
		return false, errUnaskedUpgrade
	case req.Upgrade == nil:
		return false, nil
	case c.stream != nil && success: // RFC 8441 section 5
		resp.Status, resp.Reason, resp.Upgrade = 101, nil, req.Upgrade
		resp.Fields.DelID(http.HeaderContentLength)
	case resp.Status != 101:
		if success && req.ExtendedConnect {
			return false, errNotSwitched
		}
		return false, nil
	}
	if http.EqualFoldString(req.Upgrade, protocolWebSocket) {
		return true, c.checkAccept()
	}
	return true, nil
}

// errNotSwitched: the host has answered a client's extended CONNECT with a
// success that isn't one. The client would take it for a tunnel.
var errNotSwitched = errUnaskedUpgrade

// checkAccept sees to it that the client gets the Sec-WebSocket-Accept that it
// waits for: the answer to its own key, none if it sent none.
func (c *Call) checkAccept() *http.Error {
	req, fields := &c.ex.Req.Fields, &c.ex.Resp.Fields
	key, asked := req.Lookup(http.HeaderOther, fieldKey)
	got, answered := fields.Lookup(http.HeaderOther, fieldAccept)
	switch {
	case c.madeKey:
		if !answered || string(got) != string(c.accept(key)) {
			return errUnaskedUpgrade
		}
		fields.Del(http.HeaderOther, fieldAccept)
	case asked && !answered && c.stream != nil && !c.ex.Req.ExtendedConnect:
		fields.Add(fieldAccept, c.accept(key))
	}
	return nil
}
