// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// mask names the fields that are wanted: for each the mask of what is wanted
// in it, which is empty for all of it.
type mask map[string]mask

// parseMask reads the text form of a FieldMask: a.b,c.
func parseMask(s string) mask {
	if s == "" {
		return nil
	}
	m := mask{}
	for path := range strings.SplitSeq(s, ",") {
		at := m
		for name := range strings.SplitSeq(path, ".") {
			if at[name] == nil {
				at[name] = mask{}
			}
			at = at[name]
		}
	}
	return m
}

const anyName = "google.protobuf.Any"

// check returns an error for a path that messages of type d don't have. What
// an Any holds is known only when it is there.
func (k mask) check(d protoreflect.MessageDescriptor) error {
	for name, inner := range k {
		fd := d.Fields().ByName(protoreflect.Name(name))
		switch {
		case fd == nil:
			return fmt.Errorf("%s has no field %q", d.FullName(), name)
		case len(inner) == 0 || fd.IsMap():
		case fd.Message() == nil:
			return fmt.Errorf("%s has no fields", fd.FullName())
		case fd.Message().FullName() != anyName:
			if err := inner.check(fd.Message()); err != nil {
				return err
			}
		}
	}
	return nil
}

// apply takes out of m what isn't wanted.
func (k mask) apply(m protoreflect.Message) {
	if len(k) == 0 {
		return
	}
	if a, ok := m.Interface().(*anypb.Any); ok {
		inner, err := anypb.UnmarshalNew(a, proto.UnmarshalOptions{AllowPartial: true})
		if err != nil {
			return // shown as it is
		}
		k.apply(inner.ProtoReflect())
		setAny(a, inner)
		return
	}
	var set []protoreflect.FieldDescriptor
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		set = append(set, fd)
		return true
	})
	for _, fd := range set {
		inner, wanted := k[string(fd.Name())]
		switch {
		case !wanted:
			m.Clear(fd)
		case len(inner) == 0 || fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			list := m.Mutable(fd).List()
			for i := range list.Len() {
				inner.apply(list.Get(i).Message())
			}
		default:
			inner.apply(m.Mutable(fd).Message())
		}
	}
}
