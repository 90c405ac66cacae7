// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"io"
	"strconv"
	"sync"
	"time"

	"pillion/proxy/cluster"
	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/http/h2"
	"pillion/proxy/pool"
)

// errTooLong: the body of an answer is longer than the caller allows.
var errTooLong = &http.Error{Side: http.SideUpstream, Kind: http.KindTooLarge, Status: 502, Detail: "response_payload_too_large"}

// Client sends requests of the proxy's own to one cluster, over the same
// connections and under the same limits as those of clients. It implements
// filter.Client.
type Client struct {
	slot *cluster.Slot // immutable
}

// NewClient returns a client of the cluster, which need not exist yet.
func NewClient(slot *cluster.Slot) *Client { return &Client{slot: slot} }

// Do implements filter.Client.
func (c *Client) Do(call *filter.ClientCall) (*filter.ClientAnswer, *http.Error) {
	cl := c.slot.Load()
	if cl == nil {
		return nil, errNoCluster
	}
	if !cl.AdmitRequest() {
		return nil, errOverflow
	}
	defer cl.ReleaseRequest()
	f := &fetch{cl: cl, call: call}
	if call.Timeout > 0 {
		f.deadline = http.Now() + int64(call.Timeout)
	}
	f.makeHead()
	defer f.watch()()
	begun := http.Now()
	a, err := f.run()
	switch {
	case f.status != 0: // also where the body didn't follow
		cl.Stats.Response(f.status, true, http.Now()-begun)
	case err.Status != 0:
		cl.Stats.Response(err.Status, true, -1)
	}
	return a, err
}

// fetch is one call. It is owned by the caller's goroutine but for what mu
// guards.
type fetch struct {
	cl       *cluster.Cluster
	call     *filter.ClientCall
	head     http.RequestHead
	deadline int64 // of http.Now; 0 none
	status   int   // of the answer, once its head is there

	mu    sync.Mutex
	up    upstream    // to interrupt; guarded by mu
	cause *http.Error // why the call is given up; guarded by mu
}

func (f *fetch) makeHead() {
	h, c := &f.head, f.call
	h.RawMethod = []byte(c.Method)
	h.Method = http.LookupMethod(h.RawMethod)
	h.Scheme, h.Authority, h.Path = []byte("http"), []byte(c.Authority), []byte(c.Path)
	if c.Scheme != "" {
		h.Scheme = []byte(c.Scheme)
	}
	h.Protocol = http.HTTP11
	if c.Multi {
		h.Protocol = http.HTTP2
	}
	h.Fields.CopyFrom(&c.Fields)
	if c.HasBody {
		h.Framing = http.Framing{Kind: http.BodyLength, Length: int64(len(c.Body))}
		if c.Multi { // as gRPC has it
			h.Framing = http.Framing{Kind: http.BodyStream}
		} else {
			h.Fields.SetID(http.HeaderContentLength, strconv.AppendInt(nil, h.Framing.Length, 10))
		}
	}
}

// watch gives the call up when its time is over or it is cancelled, until the
// function that it returns is called.
func (f *fetch) watch() (stop func()) {
	var late *time.Timer
	if f.call.Timeout > 0 {
		late = time.AfterFunc(f.call.Timeout, func() { f.giveUp(errTimeout) })
	}
	var done chan struct{}
	if cancel := f.call.Cancel; cancel != nil {
		done = make(chan struct{})
		go func() {
			select {
			case <-cancel:
				f.giveUp(errCancelled)
			case <-done:
			}
		}()
	}
	return func() {
		if late != nil {
			late.Stop()
		}
		if done != nil {
			close(done)
		}
	}
}

func (f *fetch) giveUp(cause *http.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil {
		f.cause = cause
	}
	if f.up != nil {
		f.up.Interrupt()
	}
}

// attach names the connection that giveUp interrupts, nil for none.
func (f *fetch) attach(up upstream) (cause *http.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up = up
	if up != nil && f.cause != nil {
		up.Interrupt()
	}
	return f.cause
}

// run makes the tries. More than one is made only where it is certain, or no
// matter, that no application has seen the request.
func (f *fetch) run() (a *filter.ClientAnswer, err *http.Error) {
	for n := 0; ; n++ {
		host := f.cl.Pick(&cluster.PickArgs{Authority: f.head.Authority})
		if host == nil {
			return nil, errNoHealthy
		}
		unseen := false
		if a, unseen, err = f.try(host, n > 0); err == nil {
			host.ReportStatus(f.judged(a))
			return a, nil
		}
		if cause := f.attach(nil); cause != nil {
			err = cause
		}
		again := err.Retry == http.RetryAlways || err.Kind == http.KindPoolReset && (unseen || f.call.AnyOnce || f.head.Method.Idempotent())
		if !again || n == maxReissues {
			f.blame(err)
			host.ReportFailure(err.Kind)
			return nil, err
		}
	}
}

// blame counts how the call failed.
func (f *fetch) blame(err *http.Error) {
	st := f.cl.Stats
	switch err.Kind {
	case http.KindTimeout:
		st.RqTimeout.Inc()
		st.RqTxReset.Inc()
	case http.KindClientGone:
		st.RqCancelled.Inc()
	case http.KindReset, http.KindStreamReset, http.KindRefused:
		st.RqRxReset.Inc()
	case http.KindUpstreamProtocol:
		st.CxProtocolError.Inc()
		st.RqTxReset.Inc()
	}
}

// judged is the status by which the host is judged.
func (f *fetch) judged(a *filter.ClientAnswer) int {
	if !f.head.IsGRPC() || a.Status != 200 {
		return a.Status
	}
	for _, fields := range [...]*http.Fields{&a.Trailers, &a.Fields} {
		if code, ok := fields.GRPCStatus(); ok {
			return code.HTTP()
		}
	}
	return a.Status
}

// try makes the request once.
func (f *fetch) try(host *cluster.Host, fresh bool) (a *filter.ClientAnswer, unseen bool, err *http.Error) {
	if f.cl.SpeaksHTTP2(f.head.Protocol) {
		sc, err := f.cl.AcquireStream(host, f.head.Authority, f.deadline, f.call.Cancel)
		if err != nil {
			return nil, false, err
		}
		defer f.cl.PutStream(sc)
		up := h2.NewClientStream(sc.H2)
		a, err = f.exchange(up)
		up.End()
		up.Recycle()
		return a, false, err
	}
	var conn *pool.Conn
	if fresh {
		conn, err = f.cl.AcquireFresh(host, f.head.Authority, f.deadline, f.call.Cancel)
	} else {
		conn, err = f.cl.Acquire(host, f.head.Authority, f.deadline, f.call.Cancel, f.head.Method)
	}
	if err != nil {
		return nil, false, err
	}
	up := conn.H1
	up.Begin()
	a, err = f.exchange(up)
	unseen = err != nil && up.Unseen()
	reusable, head := up.End()
	head.Release()
	f.cl.Put(conn, reusable && err == nil)
	return a, unseen, err
}

// exchange sends the request on a connection and reads the answer.
func (f *fetch) exchange(up upstream) (*filter.ClientAnswer, *http.Error) {
	f.cl.Stats.RqTotal.Inc()
	f.attach(up)
	a, err := f.converse(up)
	if cause := f.attach(nil); cause != nil {
		// The connection is interrupted, even if the answer came in time.
		return nil, cause
	}
	if err != nil {
		return nil, asError(err)
	}
	return a, nil
}

func (f *fetch) converse(up upstream) (*filter.ClientAnswer, error) {
	if err := up.WriteHead(&f.head, !f.call.HasBody); err != nil {
		return nil, err
	}
	if f.call.HasBody {
		if err := up.WriteBody(f.call.Body, true); err != nil {
			return nil, err
		}
	}
	var resp http.ResponseHead
	for resp.Status < 200 {
		if err := up.ReadHead(&resp); err != nil {
			return nil, err
		}
		if resp.Status == 101 {
			return nil, errUnaskedUpgrade
		}
	}
	f.status = resp.Status
	a := &filter.ClientAnswer{Status: resp.Status}
	copyFields(&a.Fields, &resp.Fields)
	for {
		p, err := up.ReadBody()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(a.Body)+len(p) > f.call.MaxBody {
			return nil, errTooLong
		}
		a.Body = append(a.Body, p...)
	}
	if t := up.ResponseTrailers(); t != nil {
		copyFields(&a.Trailers, t)
	}
	return a, nil
}

// copyFields copies lines with what they point to.
func copyFields(dst, src *http.Fields) {
	for _, fl := range src.All() {
		dst.Append(http.Field{ID: fl.ID, NeverIndex: fl.NeverIndex, Name: bytes.Clone(fl.Name), Value: bytes.Clone(fl.Value)})
	}
}
