// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"io"
	"time"

	"pillion/proxy/cluster"
	"pillion/proxy/http"
	"pillion/proxy/http/h2"
	"pillion/proxy/router"
)

// mirrorTime bounds a copy that is sent to a mirror, from connecting to the
// end of its answer.
const mirrorTime = 30 * time.Second

// sendMirrors sends a copy of the request to each of the route's mirrors that
// takes it. It is called once, when the request is known to its end. A body
// that is not remembered whole is not copied, which is counted.
func (c *Call) sendMirrors() {
	mirrors := c.route.Mirrors()
	for i := range mirrors {
		m := &mirrors[i]
		if !m.Takes(c.ex.Random, i) {
			continue
		}
		slot, _ := m.Cluster.(*cluster.Slot)
		if slot == nil {
			continue
		}
		cl := slot.Load()
		if cl == nil {
			continue
		}
		if !c.wholeBody() {
			cl.Stats.RetryOrShadowAbandoned.Inc()
			continue
		}
		go newCopy(c, m).send(cl)
	}
}

// wholeBody reports whether the request's body is there to be copied.
func (c *Call) wholeBody() bool {
	return c.ex.Req.Framing.Kind == http.BodyNone || c.body.on && c.body.ended
}

// requestCopy is a request that shares no memory with its exchange.
type requestCopy struct {
	head http.RequestHead
	body []byte
}

func newCopy(c *Call, m *router.Mirror) *requestCopy {
	from := &c.ex.Req
	r := &requestCopy{head: *from, body: bytes.Clone(c.body.kept.Bytes())}
	h := &r.head
	h.RawMethod, h.Scheme, h.Path = bytes.Clone(from.RawMethod), bytes.Clone(from.Scheme), bytes.Clone(from.Path)
	h.Authority, h.HostName = mirrorHost(from.Authority, m), bytes.Clone(from.HostName)
	h.Expect100, h.Upgrade = false, nil
	h.Fields = http.Fields{}
	for _, f := range from.Fields.All() {
		if f.ID == http.HeaderExpect {
			continue
		}
		h.Fields.Append(http.Field{ID: f.ID, Name: bytes.Clone(f.Name), Value: bytes.Clone(f.Value)})
	}
	if h.Framing.Kind != http.BodyNone {
		h.Framing = http.Framing{Kind: http.BodyLength, Length: int64(len(r.body))}
	}
	return r
}

// mirrorHost is the authority of a copy: "-shadow" goes behind the host and
// before the port (Envoy: Http::Utility::appendToHost via ShadowWriter).
func mirrorHost(authority []byte, m *router.Mirror) []byte {
	switch {
	case m.Host != "":
		return []byte(m.Host)
	case m.KeepHost:
		return bytes.Clone(authority)
	}
	host, port := authority, []byte(nil)
	if i := bytes.LastIndexByte(authority, ':'); i >= 0 && bytes.IndexByte(authority[i:], ']') < 0 {
		host, port = authority[:i], authority[i:]
	}
	out := make([]byte, 0, len(authority)+len("-shadow"))
	return append(append(append(out, host...), "-shadow"...), port...)
}

// send makes the request and drops the answer. Nobody waits for it.
func (r *requestCopy) send(cl *cluster.Cluster) {
	if !cl.AdmitRequest() {
		return
	}
	defer cl.ReleaseRequest()
	host := cl.Pick(&cluster.PickArgs{Authority: r.head.Authority})
	if host == nil {
		return
	}
	deadline := time.Now().Add(mirrorTime)
	status, ok, err := r.sendTo(cl, host, deadline)
	if err != nil {
		host.ReportFailure(err.Kind)
		return
	}
	if ok {
		host.ReportStatus(status)
	} else {
		host.ReportFailure(http.KindReset)
	}
}

// sendTo makes the request on a connection of the kind that the cluster's hosts
// are spoken to with.
func (r *requestCopy) sendTo(cl *cluster.Cluster, host *cluster.Host, deadline time.Time) (status int, ok bool, err *http.Error) {
	late := http.Now() + int64(time.Until(deadline))
	if cl.SpeaksHTTP2(r.head.Protocol) {
		sc, err := cl.AcquireStream(host, r.head.Authority, late, nil)
		if err != nil {
			return 0, false, err
		}
		defer cl.PutStream(sc)
		cl.Stats.RqTotal.Inc()
		up := h2.NewClientStream(sc.H2)
		up.SetReadDeadline(deadline)
		status, ok = r.exchange(up)
		up.End()
		return status, ok, nil
	}
	conn, err := cl.Acquire(host, r.head.Authority, late, nil, http.MethodOther)
	if err != nil {
		return 0, false, err
	}
	cl.Stats.RqTotal.Inc()
	up := conn.H1
	up.SetDeadline(deadline)
	up.Begin()
	status, ok = r.exchange(up)
	up.SetDeadline(time.Time{})
	reusable, head := up.End()
	head.Release()
	cl.Put(conn, reusable && ok)
	return status, ok, nil
}

func (r *requestCopy) exchange(up http.ClientStream) (status int, ok bool) {
	none := r.head.Framing.Kind == http.BodyNone
	if up.WriteHead(&r.head, none) != nil {
		return 0, false
	}
	if !none && up.WriteBody(r.body, true) != nil {
		return 0, false
	}
	var resp http.ResponseHead
	for resp.Status < 200 {
		if up.ReadHead(&resp) != nil || resp.Status == 101 {
			return 0, false
		}
	}
	for {
		switch _, err := up.ReadBody(); err {
		case nil:
		case io.EOF:
			return resp.Status, true
		default:
			return resp.Status, false
		}
	}
}
