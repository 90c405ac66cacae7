// SPDX-License-Identifier: Apache-2.0

package source

import (
	"math"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// message reads a mapping into a protobuf message by protobuf's JSON rules, straight
// from the YAML tree, so that every problem has its line. Fields may be written in
// their JSON or their protobuf name; null means not set. It differs from protojson in
// what an API server's schema would refuse: a string is no number and no boolean; and
// in taking every form of a duration that Istio takes.
//
// It reports whether all of it could be read; unknown fields are no failure unless
// Options.Strict.
func (s *subject) message(n *yaml.Node, at *place, m protoreflect.Message) bool {
	n = target(n)
	desc := m.Descriptor()
	if desc.ParentFile().Package() == "google.protobuf" {
		return s.wellKnown(n, at, m)
	}
	if n.Kind != yaml.MappingNode {
		s.fail(n, at, "wants a mapping, not %s", describe(n))
		return false
	}
	ok := true
	fields := desc.Fields()
	for pairs := entries(n); len(pairs) > 1; pairs = pairs[2:] {
		key, val := pairs[0], target(pairs[1])
		here := at.key(key.Value)
		fd := fieldNamed(fields, key.Value)
		switch {
		case fd == nil:
			s.unknownField(key, here, func() []string { return jsonNames(fields) })
			ok = ok && !s.strict
			continue
		case fd.JSONName() != key.Value && hasKey(n, fd.JSONName()):
			s.fail(key, here, "%q and %q are the same field; give it once", key.Value, fd.JSONName())
			ok = false
			continue
		case isNull(val):
			continue
		}
		if other := rival(m, fd); other != nil {
			s.fail(key, here, "can't be given together with %q", other.JSONName())
			ok = false
			continue
		}
		if !s.field(val, here, m, fd) {
			ok = false
		}
	}
	return ok
}

// field reads the value of one field.
func (s *subject) field(n *yaml.Node, at *place, m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
	switch {
	case fd.IsMap():
		return s.mapField(n, at, m.Mutable(fd).Map(), fd)
	case fd.IsList():
		return s.listField(n, at, m.Mutable(fd).List(), fd)
	case fd.Message() != nil:
		return s.message(n, at, m.Mutable(fd).Message())
	}
	v, ok := s.scalar(n, at, fd)
	if ok {
		m.Set(fd, v)
	}
	return ok
}

func (s *subject) listField(n *yaml.Node, at *place, list protoreflect.List, fd protoreflect.FieldDescriptor) bool {
	if n.Kind != yaml.SequenceNode {
		s.fail(n, at, "wants a list, not %s", describe(n))
		return false
	}
	ok := true
	for i, item := range n.Content {
		here := at.item(i)
		if item = target(item); isNull(item) && !takesNull(fd) {
			s.fail(item, here, "an item of a list can't be empty")
			ok = false
			continue
		}
		if fd.Message() != nil {
			ok = s.message(item, here, list.AppendMutable().Message()) && ok
			continue
		}
		v, good := s.scalar(item, here, fd)
		if good {
			list.Append(v)
		}
		ok = ok && good
	}
	return ok
}

func (s *subject) mapField(n *yaml.Node, at *place, m protoreflect.Map, fd protoreflect.FieldDescriptor) bool {
	if n.Kind != yaml.MappingNode {
		s.fail(n, at, "wants a mapping, not %s", describe(n))
		return false
	}
	ok := true
	for pairs := entries(n); len(pairs) > 1; pairs = pairs[2:] {
		name, val := pairs[0], target(pairs[1])
		here := at.key(name.Value)
		key, good := s.mapKey(name, here, fd.MapKey())
		if !good {
			ok = false
			continue
		}
		if isNull(val) && !takesNull(fd.MapValue()) {
			s.fail(name, here, "needs a value")
			ok = false
			continue
		}
		if fd.MapValue().Message() != nil {
			ok = s.message(val, here, m.Mutable(key).Message()) && ok
			continue
		}
		v, good := s.scalar(val, here, fd.MapValue())
		if good {
			m.Set(key, v)
		}
		ok = ok && good
	}
	return ok
}

// mapKey reads a mapping's key. All keys are strings in JSON, so any scalar will do for
// a string, and digits for a number.
func (s *subject) mapKey(n *yaml.Node, at *place, fd protoreflect.FieldDescriptor) (protoreflect.MapKey, bool) {
	if fd.Kind() == protoreflect.StringKind {
		return protoreflect.ValueOfString(n.Value).MapKey(), true
	}
	digits := *n
	if v := strings.TrimSpace(n.Value); v != "" && strings.Trim(v, "0123456789") == "" {
		digits.Tag, digits.Style = "!!int", 0
	}
	v, ok := s.scalar(&digits, at, fd)
	if !ok {
		return protoreflect.MapKey{}, false
	}
	return v.MapKey(), true
}

// scalar reads a value of a scalar or enum type.
func (s *subject) scalar(n *yaml.Node, at *place, fd protoreflect.FieldDescriptor) (v protoreflect.Value, ok bool) {
	switch fd.Kind() {
	case protoreflect.StringKind:
		str, ok := s.text(n, at)
		return protoreflect.ValueOfString(str), ok
	case protoreflect.BytesKind:
		b, ok := s.bytes(n, at)
		return protoreflect.ValueOfBytes(b), ok
	case protoreflect.BoolKind:
		b, ok := s.boolean(n, at)
		return protoreflect.ValueOfBool(b), ok
	case protoreflect.EnumKind:
		return s.enum(n, at, fd.Enum())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		i, ok := s.integer(n, at, math.MinInt32, math.MaxInt32)
		return protoreflect.ValueOfInt32(int32(i)), ok
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		i, ok := s.integer(n, at, 0, math.MaxUint32)
		return protoreflect.ValueOfUint32(uint32(i)), ok
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		i, _, ok := s.bigInteger(n, at, true)
		return protoreflect.ValueOfInt64(i), ok
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		_, u, ok := s.bigInteger(n, at, false)
		return protoreflect.ValueOfUint64(u), ok
	case protoreflect.FloatKind:
		f, ok := s.number(n, at)
		return protoreflect.ValueOfFloat32(float32(f)), ok
	case protoreflect.DoubleKind:
		f, ok := s.number(n, at)
		return protoreflect.ValueOfFloat64(f), ok
	}
	s.fail(n, at, "a value of type %s can't be given here", fd.Kind())
	return protoreflect.Value{}, false
}

// enum reads an enum's value by its name, or by its number if it has a name.
func (s *subject) enum(n *yaml.Node, at *place, ed protoreflect.EnumDescriptor) (protoreflect.Value, bool) {
	n = target(n)
	values := ed.Values()
	if n.Kind == yaml.ScalarNode {
		if v := values.ByName(protoreflect.Name(n.Value)); v != nil && n.Tag == "!!str" {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
		if i, ok := wholeNumber(n); ok && math.MinInt32 <= i && i <= math.MaxInt32 {
			if v := values.ByNumber(protoreflect.EnumNumber(i)); v != nil {
				return protoreflect.ValueOfEnum(v.Number()), true
			}
		}
	}
	names := make([]string, values.Len())
	for i := range names {
		names[i] = string(values.Get(i).Name())
	}
	hint := ""
	if n.Kind == yaml.ScalarNode {
		hint = didYouMean(n.Value, names)
	}
	s.fail(n, at, "wants one of %s, not %s%s", strings.Join(names, ", "), describe(n), hint)
	return protoreflect.Value{}, false
}

// wellKnown reads the messages of google.protobuf, which have JSON forms of their own.
func (s *subject) wellKnown(n *yaml.Node, at *place, m protoreflect.Message) bool {
	fields := m.Descriptor().Fields()
	switch name := m.Descriptor().Name(); name {
	case "Duration":
		d, ok := s.duration(n, at)
		m.Set(fields.ByName("seconds"), protoreflect.ValueOfInt64(int64(d/time.Second)))
		m.Set(fields.ByName("nanos"), protoreflect.ValueOfInt32(int32(d%time.Second)))
		return ok
	case "BoolValue", "BytesValue", "DoubleValue", "FloatValue", "Int32Value", "Int64Value",
		"StringValue", "UInt32Value", "UInt64Value":
		v, ok := s.scalar(n, at, fields.ByName("value"))
		if ok {
			m.Set(fields.ByName("value"), v)
		}
		return ok
	case "Struct":
		return s.mapField(n, at, m.Mutable(fields.ByName("fields")).Map(), fields.ByName("fields"))
	case "ListValue":
		return s.listField(n, at, m.Mutable(fields.ByName("values")).List(), fields.ByName("values"))
	case "Value":
		return s.anyValue(n, at, m)
	default:
		s.fail(n, at, "a google.protobuf.%s can't be read from YAML", name)
		return false
	}
}

// anyValue reads a google.protobuf.Value: whatever the document holds.
func (s *subject) anyValue(n *yaml.Node, at *place, m protoreflect.Message) bool {
	fields := m.Descriptor().Fields()
	switch {
	case n.Kind == yaml.MappingNode:
		return s.message(n, at, m.Mutable(fields.ByName("struct_value")).Message())
	case n.Kind == yaml.SequenceNode:
		return s.message(n, at, m.Mutable(fields.ByName("list_value")).Message())
	case isNull(n):
		m.Set(fields.ByName("null_value"), protoreflect.ValueOfEnum(0))
		return true
	case n.Tag == "!!bool":
		b, ok := s.boolean(n, at)
		m.Set(fields.ByName("bool_value"), protoreflect.ValueOfBool(b))
		return ok
	case n.Tag == "!!int", n.Tag == "!!float":
		f, ok := s.number(n, at)
		m.Set(fields.ByName("number_value"), protoreflect.ValueOfFloat64(f))
		return ok
	}
	m.Set(fields.ByName("string_value"), protoreflect.ValueOfString(n.Value))
	return true
}

// takesNull reports whether null is a value of the field, as only google.protobuf.Value has it.
func takesNull(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Value"
}

func fieldNamed(fields protoreflect.FieldDescriptors, name string) protoreflect.FieldDescriptor {
	if fd := fields.ByJSONName(name); fd != nil {
		return fd
	}
	return fields.ByName(protoreflect.Name(name))
}

func jsonNames(fields protoreflect.FieldDescriptors) []string {
	names := make([]string, fields.Len())
	for i := range names {
		names[i] = fields.Get(i).JSONName()
	}
	slices.Sort(names)
	return names
}

// hasKey reports whether a mapping gives a key other than as null.
func hasKey(n *yaml.Node, name string) bool {
	for pairs := entries(n); len(pairs) > 1; pairs = pairs[2:] {
		if pairs[0].Value == name {
			return !isNull(target(pairs[1]))
		}
	}
	return false
}

// rival returns the field of fd's oneof that is already set.
func rival(m protoreflect.Message, fd protoreflect.FieldDescriptor) protoreflect.FieldDescriptor {
	oneof := fd.ContainingOneof()
	if oneof == nil || oneof.IsSynthetic() {
		return nil
	}
	return m.WhichOneof(oneof)
}

// eachEntry reads a mapping that isn't a protobuf message: take gets every key of known
// that has a value, and passes over those that a proxy has no use for.
func (s *subject) eachEntry(n *yaml.Node, at *place, known []string, take func(key string, val *yaml.Node, at *place)) {
	n = target(n)
	if n.Kind != yaml.MappingNode {
		s.fail(n, at, "wants a mapping, not %s", describe(n))
		return
	}
	for pairs := entries(n); len(pairs) > 1; pairs = pairs[2:] {
		key, val := pairs[0], target(pairs[1])
		here := at.key(key.Value)
		if !slices.Contains(known, key.Value) {
			s.unknownField(key, here, func() []string { return known })
		} else if !isNull(val) {
			take(key.Value, val, here)
		}
	}
}

// eachItem calls take for every element of a list.
func (s *subject) eachItem(n *yaml.Node, at *place, take func(item *yaml.Node, at *place)) {
	n = target(n)
	if n.Kind != yaml.SequenceNode {
		s.fail(n, at, "wants a list, not %s", describe(n))
		return
	}
	for i, item := range n.Content {
		here := at.item(i)
		if item = target(item); isNull(item) {
			s.fail(item, here, "an item of a list can't be empty")
			continue
		}
		take(item, here)
	}
}

// strings reads a mapping of strings to strings.
func (s *subject) strings(n *yaml.Node, at *place) map[string]string {
	n = target(n)
	if n.Kind != yaml.MappingNode {
		s.fail(n, at, "wants a mapping, not %s", describe(n))
		return nil
	}
	var m map[string]string
	for pairs := entries(n); len(pairs) > 1; pairs = pairs[2:] {
		val, ok := s.text(pairs[1], at.key(pairs[0].Value))
		if !ok {
			continue
		}
		if m == nil {
			m = map[string]string{}
		}
		m[pairs[0].Value] = val
	}
	return m
}
