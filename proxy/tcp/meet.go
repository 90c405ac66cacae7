// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"io"
	"sync/atomic"

	"pillion/proxy/buf"
	"pillion/proxy/http"
	"pillion/proxy/netio"
)

// meeting is what comes before the data of one direction.
type meeting struct {
	// hello goes to the destination first; nil if there is nothing to tell.
	hello []byte
	// hears says that the source may begin with who it is, principal is what its
	// certificate says, and peer is where it is written down, guarded by conn.mu.
	hears     bool
	principal string
	peer      **http.Peer
}

// greetLocked finds out at which ends the peers tell each other who they are; mu is
// held. Neither end waits for the other: what we tell is the first that is written in
// a direction, what we hear the first that is read in the other one.
func (c *conn) greetLocked() {
	cfg := c.p.cfg
	if cfg.Peers == nil {
		return
	}
	up, down := meeting{peer: &c.downPeer}, meeting{peer: &c.upPeer}
	if t := c.info.TLS; t != nil && cfg.PeerProtocol != "" {
		down.hello, up.hears = cfg.Peers.Begin(cfg.PeerProtocol, t.ALPN, cfg.PeerLabels)
		up.principal = c.info.PeerPrincipal
	}
	if t, cl := c.raw.TLS, c.cl.Config(); t != nil && cl.PeerProtocol != "" {
		up.hello, down.hears = cfg.Peers.Begin(cl.PeerProtocol, t.ALPN, cl.PeerLabels)
		down.principal, _ = t.Principals()
	}
	c.upward, c.downward = up.orNothing(), down.orNothing()
	for _, m := range []*meeting{c.upward, c.downward} {
		if m != nil && m.hears {
			c.unknown++
		}
	}
}

func (m meeting) orNothing() *meeting {
	if len(m.hello) == 0 && !m.hears {
		return nil
	}
	return &m
}

// meet does what comes before the data of a direction: dst is told who we are, and
// what src tells is taken out. It waits for src without a bound of its own, since src
// may have nothing to say for hours; that nothing moves is the tracker's business.
// io.EOF of src is its end.
func (c *conn) meet(dst, src *netio.Conn, m *meeting, moved *atomic.Uint64) (srcErr, dstErr error) {
	if len(m.hello) > 0 {
		if _, err := dst.Write(m.hello); err != nil {
			return nil, err
		}
	}
	if !m.hears {
		return nil, nil
	}
	var in buf.Buffer
	defer in.Release()
	for {
		if in.Len() > 0 && len(in.Free()) == 0 && !in.Grow() {
			return errNoPeer, nil // no frame that may come is so long
		}
		if err := src.Fill(&in); err != nil {
			return c.cutShort(dst, m, &in, moved, err)
		}
		read := c.p.cfg.Peers.Read(in.Bytes(), m.principal)
		if read.Broken {
			return errNoPeer, nil
		}
		if read.More {
			continue
		}
		in.Advance(read.Skip)
		c.learned(m, read.Peer)
		return nil, passOn(dst, &in, moved)
	}
}

// errNoPeer breaks off a connection whose other end announced more than it may tell.
var errNoPeer = &http.Error{Side: http.SideDownstream, Kind: http.KindProtocol, Detail: "peer_metadata_too_long"}

// cutShort is the end of src before it was clear whether it tells something. What has
// come is data unless it was the beginning of a frame that breaks off.
func (c *conn) cutShort(dst *netio.Conn, m *meeting, in *buf.Buffer, moved *atomic.Uint64, err error) (srcErr, dstErr error) {
	c.learned(m, nil)
	if err != io.EOF {
		return err, nil
	}
	if in.Len() >= frameHead {
		c.p.cfg.Peers.Failed()
		return io.EOF, nil
	}
	return io.EOF, passOn(dst, in, moved)
}

// frameHead is how much has to have come before it is certain that it is a frame.
const frameHead = 8

func passOn(dst *netio.Conn, in *buf.Buffer, moved *atomic.Uint64) error {
	if in.Len() == 0 {
		return nil
	}
	n, err := dst.Write(in.Bytes())
	moved.Add(uint64(n))
	return err
}

// learned takes down who is at an end, nil if that stays unknown, and has the
// filters told.
func (c *conn) learned(m *meeting, p *http.Peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*m.peer = p
	if c.unknown--; c.unknown == 0 && c.cause == running {
		c.tellLocked(http.Now(), false)
	}
}
