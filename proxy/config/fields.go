// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
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
	var bad protoreflect.Name
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !allowed[fd.Name()] {
			bad = fd.Name()
			return false
		}
		return true
	})
	if bad != "" {
		return fmt.Errorf("%s: is not supported", bad)
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return fmt.Errorf("holds fields that this build doesn't know")
	}
	return nil
}
