// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"pillion/proxy/http"
	"pillion/proxy/http/h1"
)

// wrap puts the filters that change bodies before the codec, the first one
// next to the client.
func (st *stream) wrap() {
	if st.chain == nil || len(st.chain.Wrap) == 0 {
		return
	}
	var top http.ServerStream = st.codec
	for _, f := range st.chain.Wrap {
		top = f.Wrap(&st.ex, top)
	}
	if top == http.ServerStream(st.codec) {
		return
	}
	st.ex.Wrapped = true
	st.codec = &wrapped{codec: st.codec, top: top}
}

// Socket implements forward.Downstream.
func (st *stream) Socket() *h1.ServerConn {
	c, _ := st.codec.(*h1.ServerConn) // not where it is wrapped
	return c
}

// wrapped is a codec behind the stream that filters made of it.
type wrapped struct {
	codec
	top http.ServerStream
}

// The methods of http.ServerStream are the filters'.

func (w *wrapped) Buffered() bool                { return w.top.Buffered() }
func (w *wrapped) Poll() bool                    { return w.top.Poll() }
func (w *wrapped) ReadBody() ([]byte, error)     { return w.top.ReadBody() }
func (w *wrapped) RequestTrailers() *http.Fields { return w.top.RequestTrailers() }
func (w *wrapped) Continue() error               { return w.top.Continue() }

func (w *wrapped) WriteInterim(h *http.ResponseHead) error        { return w.top.WriteInterim(h) }
func (w *wrapped) WriteHead(h *http.ResponseHead, end bool) error { return w.top.WriteHead(h, end) }
func (w *wrapped) WriteBody(p []byte, end bool) error             { return w.top.WriteBody(p, end) }
func (w *wrapped) WriteTrailers(f *http.Fields) error             { return w.top.WriteTrailers(f) }
func (w *wrapped) Flush() error                                   { return w.top.Flush() }
