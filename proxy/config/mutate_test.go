// SPDX-License-Identifier: Apache-2.0

package config

import (
	"math/rand/v2"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// mutate changes one thing somewhere in m, within packed messages too: random bytes
// seldom make another message that is well-formed.
func mutate(m proto.Message, r *rand.Rand) {
	if a, ok := m.(*anypb.Any); ok {
		mutateAny(a, r)
		return
	}
	pm := m.ProtoReflect()
	var inner []protoreflect.Message
	pm.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		inner = append(inner, messagesOf(fd, v)...)
		return true
	})
	// Most fields are deep within.
	if len(inner) > 0 && r.IntN(5) > 0 {
		mutate(inner[r.IntN(len(inner))].Interface(), r)
		return
	}
	fields := pm.Descriptor().Fields()
	if fields.Len() == 0 {
		return
	}
	mutateField(pm, fields.Get(r.IntN(fields.Len())), r)
}

func mutateAny(a *anypb.Any, r *rand.Rand) {
	inner, err := a.UnmarshalNew()
	if err != nil || r.IntN(50) == 0 {
		a.TypeUrl += "x"
		return
	}
	mutate(inner, r)
	_ = a.MarshalFrom(inner)
}

// messagesOf returns the messages in a field's value.
func messagesOf(fd protoreflect.FieldDescriptor, v protoreflect.Value) (out []protoreflect.Message) {
	switch {
	case fd.IsMap():
		if fd.MapValue().Message() != nil {
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				out = append(out, v.Message())
				return true
			})
		}
	case fd.Message() == nil:
	case fd.IsList():
		for i := range v.List().Len() {
			out = append(out, v.List().Get(i).Message())
		}
	default:
		out = append(out, v.Message())
	}
	return out
}

func mutateField(m protoreflect.Message, fd protoreflect.FieldDescriptor, r *rand.Rand) {
	switch {
	case m.Has(fd) && r.IntN(3) == 0:
		m.Clear(fd)
	case fd.IsMap():
		mutateMap(m.Mutable(fd).Map(), fd, r)
	case fd.IsList():
		mutateList(m.Mutable(fd).List(), fd, r)
	case fd.Message() != nil:
		m.Mutable(fd)
	default:
		m.Set(fd, scalar(fd, r))
	}
}

func mutateMap(m protoreflect.Map, fd protoreflect.FieldDescriptor, r *rand.Rand) {
	key := scalar(fd.MapKey(), r).MapKey()
	if fd.MapValue().Message() == nil {
		m.Set(key, scalar(fd.MapValue(), r))
		return
	}
	m.Mutable(key)
}

func mutateList(l protoreflect.List, fd protoreflect.FieldDescriptor, r *rand.Rand) {
	n := l.Len()
	switch {
	case n > 0 && r.IntN(3) == 0:
		l.Truncate(n - 1)
	case n > 1 && r.IntN(2) == 0: // another order
		i, j := r.IntN(n), r.IntN(n)
		if fd.Message() == nil {
			a, b := l.Get(i), l.Get(j)
			l.Set(i, b)
			l.Set(j, a)
			return
		}
		a, b := proto.Clone(l.Get(i).Message().Interface()), proto.Clone(l.Get(j).Message().Interface())
		l.Set(i, protoreflect.ValueOfMessage(b.ProtoReflect()))
		l.Set(j, protoreflect.ValueOfMessage(a.ProtoReflect()))
	case fd.Message() == nil:
		l.Append(scalar(fd, r))
	case n > 0: // one more like another
		l.Append(protoreflect.ValueOfMessage(proto.Clone(l.Get(r.IntN(n)).Message().Interface()).ProtoReflect()))
	default:
		l.AppendMutable()
	}
}

// words are texts that mean something somewhere.
var words = []string{"", "x", "*", "/", "0.0.0.0", "::1", "default", "tls", "raw_buffer", "h2", "istio", "*.example.com", "[", "(?i)a+", "%REQ(A)%", "\x00", "9080"}

func scalar(fd protoreflect.FieldDescriptor, r *rand.Rand) protoreflect.Value {
	numbers := []int64{0, 1, 2, -1, 100, 65535, 65536, 1 << 31, 1<<63 - 1}
	n := numbers[r.IntN(len(numbers))]
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 0)
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(r.IntN(values.Len())).Number() + protoreflect.EnumNumber(r.IntN(20)/19))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(words[r.IntN(len(words))]))
	}
	return protoreflect.ValueOfString(words[r.IntN(len(words))])
}
