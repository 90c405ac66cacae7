// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// onlyFields refuses a message in which a field outside of allowed is set: a
// policy that isn't understood must not be served as if it were.
func onlyFields(m proto.Message, allowed ...protoreflect.Name) (err error) {
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if slices.Contains(allowed, fd.Name()) {
			return true
		}
		err = fmt.Errorf("%s: is not supported", fd.Name())
		return false
	})
	if err == nil && len(m.ProtoReflect().GetUnknown()) > 0 {
		err = fmt.Errorf("holds fields that this build doesn't know")
	}
	return err
}
