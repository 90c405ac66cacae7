// SPDX-License-Identifier: Apache-2.0

package router

import (
	"errors"
	"fmt"
	"strings"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// HeaderAction is what setting a header does when it exists already.
type HeaderAction uint8

// The actions, as envoy.config.core.v3.HeaderValueOption.HeaderAppendAction.
const (
	AppendOrAdd       HeaderAction = iota // another line
	AddIfAbsent                           // nothing
	OverwriteOrAdd                        // the line, and only it
	OverwriteIfExists                     // as OverwriteOrAdd, but nothing if it is absent
)

// HeaderOps are the header operations of one level of a configuration.
// Immutable; nil does nothing.
type HeaderOps struct {
	remove []filter.HeaderRef
	set    []headerSet
}

// MessageOps are the operations on the requests and the responses of a level.
type MessageOps struct{ Request, Response *HeaderOps }

type headerSet struct {
	ref       filter.HeaderRef
	action    HeaderAction
	keepEmpty bool
	literal   []byte  // used when format is nil
	format    *Format // a value that differs by request
}

// Remove adds the removal of a header. The error says why it can't be.
func (o *HeaderOps) Remove(name string) error {
	if err := checkHeaderName(name, "removed"); err != nil {
		return err
	}
	o.remove = append(o.remove, filter.NewHeaderRef(name))
	return nil
}

// Set adds the setting of a header. An empty value is not set unless
// keepEmpty. The error says why the name or the value can't be used.
func (o *HeaderOps) Set(name, value string, action HeaderAction, keepEmpty bool) error {
	if err := checkHeaderName(name, "set"); err != nil {
		return err
	}
	switch strings.ToLower(name) {
	case "connection", "keep-alive", "proxy-connection", "upgrade":
		return fmt.Errorf("%s concerns one connection and can't be set", name)
	}
	if !ValidHeaderValue(value) {
		return errors.New("the value holds a control character")
	}
	f, err := ParseFormat(value)
	if err != nil {
		return err
	}
	s := headerSet{ref: filter.NewHeaderRef(name), action: action, keepEmpty: keepEmpty}
	if lit, ok := f.Literal(); ok {
		s.literal = lit
	} else {
		s.format = f
	}
	o.set = append(o.set, s)
	return nil
}

// checkHeaderName refuses names that are none, that have other means to be
// changed, and those by which messages are framed: the codecs alone write
// these, since a second opinion about a message's end is how requests are
// smuggled (RFC 9112 section 6.3).
func checkHeaderName(name, what string) error {
	switch strings.ToLower(name) {
	case "host":
		return fmt.Errorf("host can't be %s here: use host_rewrite_literal", what)
	case "content-length", "transfer-encoding":
		return fmt.Errorf("%s can't be %s: it frames the message", name, what)
	}
	if strings.HasPrefix(name, ":") {
		return fmt.Errorf("%s is not a header and can't be %s", name, what)
	}
	if !ValidHeaderName(name) {
		return fmt.Errorf("%q is not a header name", name)
	}
	return nil
}

// ValidHeaderName reports whether s is a token (RFC 9110 section 5.6.2).
func ValidHeaderName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			continue
		}
		return false
	}
	return s != ""
}

// ValidHeaderValue reports whether s may stand in a field value (RFC 9110
// section 5.5).
func ValidHeaderValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// maxInline is how many operations of one level need no allocation.
const maxInline = 24

// apply runs the operations on fields, as Envoy does (HeaderParser::
// evaluateHeaders): removals come first; then all values and conditions are
// worked out before any line changes; then lines are overwritten, then added.
func (o *HeaderOps) apply(fields *http.Fields, ex *http.Exchange, response bool) {
	if o == nil {
		return
	}
	for i := range o.remove {
		fields.Del(o.remove[i].ID(), o.remove[i].Name())
	}
	if len(o.set) == 0 {
		return
	}
	var inline [maxInline]settled
	todo := inline[:]
	if len(o.set) > maxInline {
		todo = make([]settled, len(o.set))
	}
	for i := range o.set {
		todo[i] = o.set[i].settle(fields, ex, response)
	}
	for i := range o.set {
		if s := &o.set[i]; todo[i].do && s.action >= OverwriteOrAdd {
			fields.Set(s.ref.ID(), s.ref.Name(), todo[i].value)
		}
	}
	for i := range o.set {
		if s := &o.set[i]; todo[i].do && s.action < OverwriteOrAdd {
			fields.Append(http.Field{ID: s.ref.ID(), Name: s.ref.Name(), Value: todo[i].value})
		}
	}
}

// settled is the value of an operation for one exchange, and whether it is to
// be carried out.
type settled struct {
	value []byte
	do    bool
}

func (s *headerSet) settle(fields *http.Fields, ex *http.Exchange, response bool) settled {
	if s.action == AddIfAbsent || s.action == OverwriteIfExists {
		_, exists := fields.Lookup(s.ref.ID(), s.ref.Name())
		if exists == (s.action == AddIfAbsent) {
			return settled{}
		}
	}
	v := s.literal
	if s.format != nil {
		v = keep(ex, s.format, response)
	}
	return settled{value: v, do: len(v) > 0 || s.keepEmpty}
}

// keep writes a formatted value into the exchange's scratch space.
func keep(ex *http.Exchange, f *Format, response bool) []byte {
	var buf [512]byte
	return ex.KeepBytes(f.Append(buf[:0], ex, response))
}
