// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// decode reads text into a message and returns the errors' texts.
func decode(t *testing.T, text string, into proto.Message) string {
	t.Helper()
	root := mustParse(t, text)
	var out report
	s := &subject{Object: &Object{Kind: "X"}, root: root, top: new(arena).root(), out: &out}
	ok := s.message(root, s.top, into.ProtoReflect())
	var all []string
	for _, p := range out.errors {
		all = append(all, p.Field+": "+p.Reason)
	}
	if ok != (len(all) == 0) {
		t.Errorf("%s: reported %v with errors %q", text, ok, all)
	}
	return strings.Join(all, "; ")
}

// TestWellKnownTypes compares the messages of google.protobuf with what protojson reads.
func TestWellKnownTypes(t *testing.T) {
	for _, c := range []struct {
		text string
		into proto.Message
	}{
		{`{"a": 1, "b": [true, null, "x", 2.5, {}], "c": {"d": null}}`, &structpb.Struct{}},
		{`[1, [2]]`, &structpb.ListValue{}},
		{`true`, &wrapperspb.BoolValue{}},
		{`"x"`, &wrapperspb.StringValue{}},
		{`"AP8="`, &wrapperspb.BytesValue{}},
		{`"_-8"`, &wrapperspb.BytesValue{}},
		{`-2147483648`, &wrapperspb.Int32Value{}},
		{`4294967295`, &wrapperspb.UInt32Value{}},
		{`"-9223372036854775808"`, &wrapperspb.Int64Value{}},
		{`18446744073709551615`, &wrapperspb.UInt64Value{}},
		{`1.5`, &wrapperspb.FloatValue{}},
		{`1e300`, &wrapperspb.DoubleValue{}},
		{`3`, &wrapperspb.DoubleValue{}},
		{`3.0`, &wrapperspb.Int64Value{}},
		{`"3723.000000001s"`, &durationpb.Duration{}},
		{`"-0.5s"`, &durationpb.Duration{}},
	} {
		if errs := decode(t, c.text, c.into); errs != "" {
			t.Errorf("%s: %s", c.text, errs)
			continue
		}
		want := c.into.ProtoReflect().New().Interface()
		if err := protojson.Unmarshal([]byte(c.text), want); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(c.into, want) {
			t.Errorf("%s: got %v, want %v", c.text, c.into, want)
		}
	}
}

func TestWellKnownTypesRefused(t *testing.T) {
	for _, c := range []struct {
		text, want string
		into       proto.Message
	}{
		{`2026-01-01`, `: a google.protobuf.Timestamp can't be read from YAML`, &timestamppb.Timestamp{}},
		{`[x]`, `: wants a mapping, not a list`, &structpb.Struct{}},
		{`{a: .nan}`, `a: wants a finite number, not the number .nan`, &structpb.Struct{}},
		{`-1`, `: wants a whole number of at most 64 bits, not negative, not the number -1`, &wrapperspb.UInt64Value{}},
		{`9223372036854775808`, `: wants a whole number of at most 64 bits, not the number 9223372036854775808`, &wrapperspb.Int64Value{}},
		{`x`, `: wants a whole number of at most 64 bits, not the string "x"`, &wrapperspb.Int64Value{}},
		{`1e400`, `: wants a finite number, not the string "1e400"`, &wrapperspb.DoubleValue{}},
		{`"x"`, `: wants true or false, not the string "x"`, &wrapperspb.BoolValue{}},
		{`"no"`, `: wants true or false, not the string "no"`, &wrapperspb.BoolValue{}},
	} {
		if got := decode(t, c.text, c.into); got != c.want {
			t.Errorf("%s: got %s, want %s", c.text, got, c.want)
		}
	}
}

// TestWordsOfYAML11 checks that words which Kubernetes reads as booleans are refused as
// strings and taken as booleans.
func TestWordsOfYAML11(t *testing.T) {
	for word, value := range map[string]bool{"yes": true, "On": true, "y": true, "NO": false, "off": false, "n": false} {
		b := &wrapperspb.BoolValue{}
		if errs := decode(t, word, b); errs != "" || b.Value != value {
			t.Errorf("%s: %v %s", word, b.Value, errs)
		}
		want := ": " + word + ` without quotes is a boolean to Kubernetes (YAML 1.1); write it in quotes: "` + word + `"`
		if got := decode(t, word, &wrapperspb.StringValue{}); got != want {
			t.Errorf("%s: got %s, want %s", word, got, want)
		}
	}
}

// TestLargeBody is a case that is too large for a file.
func TestLargeBody(t *testing.T) {
	text := `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: large}
spec:
  hosts: [reviews]
  http: [{directResponse: {status: 200, body: {string: ` + strings.Repeat("x", maxDirectBody+1) + `}}}]
`
	got := problems(t, []string{"-"}, Options{Stdin: strings.NewReader(text)})
	want := "-:6: VirtualService/default/large: spec.http[0].directResponse.body: 1048577 bytes are too many; at most 1048576\n"
	if got != want {
		t.Errorf("got %s", got)
	}
}

// TestClip checks that messages don't repeat long values whole, nor cut letters in two.
func TestClip(t *testing.T) {
	if got, want := clip(strings.Repeat("é", 50)+"x"), strings.Repeat("é", 40)+"…"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := clip("x"+strings.Repeat("é", 50)), "x"+strings.Repeat("é", 39)+"…"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
