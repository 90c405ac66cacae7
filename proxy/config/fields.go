// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// fieldSet is a set of field names.
func fieldSet(names ...protoreflect.Name) map[protoreflect.Name]bool {
	s := make(map[protoreflect.Name]bool, len(names))
	for _, n := range names {
		s[n] = true
	}
	return s
}

// onlyFields refuses a message in which any field outside allowed is set: what
// isn't understood must not be served as if it weren't there.
func onlyFields(m proto.Message, allowed map[protoreflect.Name]bool) error {
	r := m.ProtoReflect()
	if bad := setField(r, func(n protoreflect.Name) bool { return !allowed[n] }); bad != "" {
		return fmt.Errorf("%s: is not supported", bad)
	}
	if len(r.GetUnknown()) > 0 {
		return fmt.Errorf("holds fields that this build doesn't know")
	}
	return nil
}

// setField returns the first field of m, in the order of its declaration, that is
// set and for which is holds; empty if there is none. It asks for no value, which
// would be copied to the heap.
func setField(m protoreflect.Message, is func(protoreflect.Name) bool) protoreflect.Name {
	if !m.IsValid() {
		return "" // nothing is set in a nil message
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); is(fd.Name()) && m.Has(fd) {
			return fd.Name()
		}
	}
	return ""
}

// unlessFalse is the value of a switch that is on where nothing is said.
func unlessFalse(v *wrapperspb.BoolValue) bool { return v == nil || v.GetValue() }
