// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// jsonWriter writes one JSON document piece by piece, so that a long list is
// never in memory as a whole. It indents as Envoy does, by one space. Errors
// of the writer stay in it.
type jsonWriter struct {
	out     *bufio.Writer
	depth   int
	started bool // the list or object at hand has a member
	keyed   bool // a key was written, its value comes next
	buf     bytes.Buffer
}

func newJSON(out *bufio.Writer) *jsonWriter { return &jsonWriter{out: out} }

// next goes to where the next key, or value without a key, belongs.
func (j *jsonWriter) next() {
	if j.keyed {
		j.keyed = false
		return
	}
	if j.started {
		j.out.WriteByte(',')
	}
	j.started = true
	if j.depth > 0 {
		j.newline()
	}
}

func (j *jsonWriter) newline() {
	j.out.WriteByte('\n')
	j.out.WriteString(strings.Repeat(" ", j.depth))
}

// open begins an object or a list.
func (j *jsonWriter) open(bracket byte) {
	j.next()
	j.out.WriteByte(bracket)
	j.depth++
	j.started = false
}

// close ends an object or a list.
func (j *jsonWriter) close(bracket byte) {
	j.depth--
	if j.started {
		j.newline()
	}
	j.out.WriteByte(bracket)
	j.started = true
}

// end closes the document.
func (j *jsonWriter) end(bracket byte) {
	j.close(bracket)
	j.line()
}

// line ends the document's last line.
func (j *jsonWriter) line() { j.out.WriteByte('\n') }

func (j *jsonWriter) key(name string) {
	j.next()
	j.out.WriteString(quoted(name) + ": ")
	j.keyed = true
}

// text writes a string.
func (j *jsonWriter) text(s string) {
	j.next()
	j.out.WriteString(quoted(s))
}

// message writes a message with the names of its fields as in its .proto
// file, which is what Kiali reads.
func (j *jsonWriter) message(m proto.Message) {
	j.next()
	b, err := marshal(m)
	if err != nil {
		b = []byte(`{"error":` + quoted(err.Error()) + `}`)
	}
	// protojson changes its spaces from build to build; this settles them.
	j.buf.Reset()
	if err := json.Indent(&j.buf, b, strings.Repeat(" ", j.depth), " "); err != nil {
		j.out.Write(b)
		return
	}
	j.out.Write(j.buf.Bytes())
}

// marshal makes JSON of a message. Numbers that count or measure are shown
// when they are zero, as Envoy does for these two.
func marshal(m proto.Message) ([]byte, error) {
	o := protojson.MarshalOptions{UseProtoNames: true, AllowPartial: true, Resolver: knownTypes{protoregistry.GlobalTypes}}
	switch m.ProtoReflect().Descriptor().FullName() {
	case "envoy.admin.v3.Memory", "envoy.admin.v3.ServerInfo", "envoy.admin.v3.Certificate":
		o.EmitDefaultValues = true
	}
	return o.Marshal(m)
}

// knownTypes finds the types that are built in. Any other is shown as the
// bytes that it has: {"@type": …, "value": "base64"}. The bytes were put into
// the form of a BytesValue before; see preparer.
type knownTypes struct{ *protoregistry.Types }

// FindMessageByURL finds the type in an Any.
func (t knownTypes) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	mt, err := t.Types.FindMessageByURL(url)
	if errors.Is(err, protoregistry.NotFound) {
		return (*wrapperspb.BytesValue)(nil).ProtoReflect().Type(), nil
	}
	return mt, err
}
