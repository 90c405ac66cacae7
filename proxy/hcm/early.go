// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"io"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// readEarly reads the request's body as far as a filter wants it, and puts what
// was read before the codec again.
func (st *stream) readEarly(f filter.RequestFilter) *http.Error {
	ex := &st.ex
	r, ok := f.(filter.BodyReader)
	if !ok || ex.Req.Framing.Kind == http.BodyNone || ex.Req.Upgrade != nil {
		return nil
	}
	limit := r.BodyLimit(ex)
	if limit == 0 {
		return nil
	}
	early := ex.EarlyBody
	if early == nil {
		early = &http.EarlyBody{}
		ex.EarlyBody = early
		st.codec = &replayed{codec: st.codec, early: early}
		ex.Wrapped = true
	}
	from := st.codec.(*replayed).codec
	if ex.Req.Expect100 {
		// Whoever asked for the body has it now, and the host isn't asked.
		ex.Req.Expect100 = false
		ex.Req.Fields.DelID(http.HeaderExpect)
		if from.Continue() != nil {
			return errGone
		}
	}
	// What has arrived behind the limit tells whether the body ends there.
	for !early.Whole && (len(early.Data) < limit || len(early.Data) == limit && from.Poll()) {
		p, err := from.ReadBody()
		early.Data = append(early.Data, p...)
		if err == io.EOF {
			early.Whole = true
		} else if he, ok := err.(*http.Error); ok {
			ex.Details, ex.LocalReply.Body = he.Detail, he.Body
			return he
		} else if err != nil {
			return errGone
		}
	}
	return nil
}

var errGone = &http.Error{Side: http.SideDownstream, Kind: http.KindClientGone,
	Flag: http.FlagDownstreamConnTermination, Detail: "downstream_remote_disconnect", Close: true}

// replayed is a codec whose request body begins with what was read early. It
// is in the goroutine of whoever reads the body.
type replayed struct {
	codec
	early *http.EarlyBody
	given bool // early.Data was handed out
}

func (r *replayed) Buffered() bool { return !r.given || r.early.Whole || r.codec.Buffered() }

func (r *replayed) Poll() bool { return !r.given || r.early.Whole || r.codec.Poll() }

func (r *replayed) ReadBody() ([]byte, error) {
	switch {
	case !r.given:
		r.given = true
		return r.early.Data, nil
	case r.early.Whole:
		return nil, io.EOF
	}
	return r.codec.ReadBody()
}
