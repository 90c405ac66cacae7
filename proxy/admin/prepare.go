// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// redacted takes the place of what is secret. Envoy uses the same word.
const redacted = "[redacted]"

// maxNesting bounds how deep messages within messages are opened. Envoy's own
// configuration has five or six levels.
const maxNesting = 32

// preparer makes a message fit to be shown: secrets are taken out, and what
// it can't decode is put into a form that can be written.
type preparer struct {
	// sensitive is the option by which Envoy's API marks fields that hold a
	// secret; nil when no type that has one is built in.
	sensitive protoreflect.ExtensionType
	// hideUnknown drops the bytes of types that aren't known, since nobody
	// can tell what in them is secret.
	hideUnknown bool
}

func newPreparer(hideUnknown bool) *preparer {
	p := &preparer{hideUnknown: hideUnknown}
	if x, err := protoregistry.GlobalTypes.FindExtensionByName("udpa.annotations.sensitive"); err == nil {
		p.sensitive = x
	}
	return p
}

// message prepares m in place and reports whether it changed. all treats
// every field as secret.
func (p *preparer) message(m protoreflect.Message, all bool, depth int) bool {
	if a, ok := m.Interface().(*anypb.Any); ok {
		return p.any(a, all, depth)
	}
	// Range must not see its message change.
	var set []protoreflect.FieldDescriptor
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		set = append(set, fd)
		return true
	})
	changed := false
	for _, fd := range set {
		changed = p.field(m, fd, all || p.isSensitive(fd), depth) || changed
	}
	return changed
}

func (p *preparer) isSensitive(fd protoreflect.FieldDescriptor) bool {
	if p.sensitive == nil {
		return false
	}
	o := fd.Options().ProtoReflect()
	xd := p.sensitive.TypeDescriptor()
	return o.Has(xd) && o.Get(xd).Bool()
}

func (p *preparer) field(m protoreflect.Message, fd protoreflect.FieldDescriptor, secret bool, depth int) bool {
	switch {
	case fd.IsMap():
		entries, changed := m.Mutable(fd).Map(), false
		var keys []protoreflect.MapKey
		entries.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
			keys = append(keys, k)
			return true
		})
		for _, k := range keys {
			if fd.MapValue().Message() != nil {
				changed = p.message(entries.Mutable(k).Message(), secret, depth) || changed
			} else if secret {
				entries.Set(k, redactedValue(fd.MapValue()))
				changed = true
			}
		}
		return changed
	case fd.IsList():
		list, changed := m.Mutable(fd).List(), false
		for i := range list.Len() {
			if fd.Message() != nil {
				changed = p.message(list.Get(i).Message(), secret, depth) || changed
			} else if secret {
				list.Set(i, redactedValue(fd))
				changed = true
			}
		}
		return changed
	case fd.Message() != nil:
		return p.message(m.Mutable(fd).Message(), secret, depth)
	case secret:
		m.Set(fd, redactedValue(fd))
		return true
	}
	return false
}

func redactedValue(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(redacted)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(redacted))
	}
	return fd.Default()
}

// any prepares the message within an Any.
func (p *preparer) any(a *anypb.Any, all bool, depth int) bool {
	if a.GetTypeUrl() == "" {
		return false
	}
	_, err := protoregistry.GlobalTypes.FindMessageByURL(a.GetTypeUrl())
	unknown := err != nil
	inner, err := proto.Message(nil), error(nil)
	if !unknown && depth < maxNesting {
		inner, err = anypb.UnmarshalNew(a, proto.UnmarshalOptions{AllowPartial: true})
	}
	if inner == nil || err != nil {
		p.hide(a, unknown, all)
		return true
	}
	if !p.message(inner.ProtoReflect(), all, depth+1) {
		return false
	}
	return setAny(a, inner)
}

// hide puts the bytes of a message that can't be decoded into a form in which
// they can be shown, or drops them if they may be secret.
func (p *preparer) hide(a *anypb.Any, unknown, secret bool) {
	raw := a.GetValue()
	if p.hideUnknown || secret {
		raw = []byte(redacted)
	}
	b, err := proto.Marshal(wrapperspb.Bytes(raw))
	if err != nil {
		b = nil // can't be: bytes are bytes
	}
	a.Value = b
	if !unknown {
		// Under its own name it would be decoded again.
		a.TypeUrl += ".undecodable"
	}
}

// setAny puts m into a, whose type stays.
func setAny(a *anypb.Any, m proto.Message) bool {
	b, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(m)
	if err != nil {
		b = nil // what was just decoded can be encoded; if not, rather show nothing
	}
	a.Value = b
	return true
}
