// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/propagators/b3"
	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"

	"pillion/proxy/http"
)

const (
	long   = "0af7651916cd43dd8448eb211c80319c"
	short  = "8448eb211c80319c"
	span   = "b7ad6b7169203331"
	parent = "05e3ac9a4f6e3b90"
)

// exchangeWith returns an exchange whose request has fields, given as name and value by
// turns.
func exchangeWith(fields ...string) *http.Exchange {
	ex := &http.Exchange{Conn: &http.ConnInfo{}}
	for i := 0; i < len(fields); i += 2 {
		ex.Req.Fields.Add([]byte(fields[i]), []byte(fields[i+1]))
	}
	return ex
}

// say tells in short what was found.
func (f *found) say() string {
	var out []string
	if f.broken {
		return "broken"
	}
	if f.traced {
		out = append(out, f.TraceID.String(), f.SpanID.String())
		if f.ParentID.IsValid() {
			out = append(out, "of", f.ParentID.String())
		}
	}
	if f.decided {
		out = append(out, map[bool]string{true: "sampled", false: "not sampled"}[f.Sampled])
	}
	if len(f.State) > 0 {
		out = append(out, "state", string(f.State))
	}
	if f.single {
		out = append(out, "single")
	}
	return strings.Join(out, " ")
}

func TestReadW3C(t *testing.T) {
	for _, c := range []struct{ parent, want string }{
		{"00-" + long + "-" + span + "-01", long + " " + span + " sampled state a=b"},
		{"00-" + long + "-" + span + "-00", long + " " + span + " not sampled state a=b"},
		{"00-" + long + "-" + span + "-03", long + " " + span + " sampled state a=b"},
		{"cc-" + long + "-" + span + "-01", long + " " + span + " sampled state a=b"},
		{"cc-" + long + "-" + span + "-01-what-comes", long + " " + span + " sampled state a=b"},
		{"cc-" + long + "-" + span + "-01.what", ""},
		{"00-" + long + "-" + span + "-01-", ""},
		{"ff-" + long + "-" + span + "-01", ""},
		{"0-" + long + "-" + span + "-01", ""},
		{"0G-" + long + "-" + span + "-01", ""},
		{"00-" + strings.ToUpper(long) + "-" + span + "-01", ""},
		{"00-" + strings.Repeat("0", 32) + "-" + span + "-01", ""},
		{"00-" + long + "-" + strings.Repeat("0", 16) + "-01", ""},
		{"00-" + long + "-" + span + "-0x", ""},
		{"00-" + long + "_" + span + "-01", ""},
		{"00-" + long + "-" + span, ""},
		{"", ""},
	} {
		f := W3C.read(&exchangeWith("traceparent", c.parent, "tracestate", "a=b").Req.Fields)
		if got := f.say(); got != c.want {
			t.Errorf("%q is %q, want %q", c.parent, got, c.want)
		}
	}
	two := exchangeWith("traceparent", "00-"+long+"-"+span+"-01", "traceparent", "00-"+long+"-"+span+"-01")
	if f := W3C.read(&two.Req.Fields); f.traced {
		t.Error("two lines of traceparent are taken")
	}
}

func TestReadB3(t *testing.T) {
	const id, sp, pa, sampled, flags = "X-B3-TraceId", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"
	padded := strings.Repeat("0", 16) + short
	for _, c := range []struct {
		want   string
		fields []string
	}{
		{"", nil},
		{long + " " + span + " of " + parent + " sampled single", []string{"b3", long + "-" + span + "-1-" + parent}},
		{long + " " + span + " not sampled single", []string{"b3", long + "-" + span + "-0"}},
		{long + " " + span + " sampled single", []string{"b3", long + "-" + span + "-d"}},
		{padded + " " + span + " single", []string{"b3", short + "-" + span}},
		{"not sampled single", []string{"b3", "0"}},
		{"sampled single", []string{"b3", "1"}},
		{"sampled single", []string{"b3", "d"}},
		{"broken", []string{"b3", "zz"}},
		{"broken", []string{"b3", ""}},
		{"broken", []string{"b3", "x"}},
		{"broken", []string{"b3", long + "-" + span + "-"}},
		{"broken", []string{"b3", long + "-" + span + "-2"}},
		{"broken", []string{"b3", long + "-" + span + "-1-"}},
		{"broken", []string{"b3", long + "-" + span + "-1-" + parent + "0"}},
		{"broken", []string{"b3", long + span}},
		{"broken", []string{"b3", strings.Repeat("0", 32) + "-" + span}},
		{long + " " + span + " single", []string{"b3", long + "-" + span, id, short, sp, parent, sampled, "1"}},
		{long + " " + span + " of " + parent + " sampled", []string{id, long, sp, span, pa, parent, sampled, "1"}},
		{long + " " + span + " sampled", []string{id, strings.ToUpper(long), sp, span, pa, "x", sampled, "true"}},
		{padded + " " + span + " sampled", []string{id, short, sp, span, flags, "1"}},
		{padded + " " + span + " sampled", []string{id, short, sp, span, flags, "1", sampled, "0"}},
		{padded + " " + span, []string{id, short, sp, span, flags, "0"}},
		{padded + " " + span + " not sampled", []string{id, short, sp, span, sampled, "0"}},
		{"not sampled", []string{sampled, "0"}},
		{"not sampled", []string{id, short, sampled, "0"}},
		{"broken", []string{id, "zz", sp, span}},
		{"broken", []string{id, short, sp, "0000000000000000"}},
	} {
		f := B3.read(&exchangeWith(c.fields...).Req.Fields)
		if got := f.say(); got != c.want {
			t.Errorf("%q is %q, want %q", c.fields, got, c.want)
		}
	}
}

// TestReadBoth: B3 comes first, and what it doesn't say W3C may.
func TestReadBoth(t *testing.T) {
	w3c := []string{"traceparent", "00-" + long + "-" + span + "-01"}
	for want, fields := range map[string][]string{
		long + " " + span + " sampled":                 w3c,
		strings.Repeat("0", 16) + short + " " + parent: append([]string{"x-b3-traceid", short, "x-b3-spanid", parent}, w3c...),
		"not sampled single":                           append([]string{"b3", "0"}, w3c...),
		"broken":                                       append([]string{"b3", "?"}, w3c...),
	} {
		f := (B3 | W3C).read(&exchangeWith(fields...).Req.Fields)
		if got := f.say(); got != want {
			t.Errorf("%q is %q, want %q", fields, got, want)
		}
	}
}

func idsOf(t *testing.T, trace, span, parent string) (c Context) {
	t.Helper()
	for _, id := range []struct {
		dst  []byte
		text string
	}{{c.TraceID[:], trace}, {c.SpanID[:], span}, {c.ParentID[:], parent}} {
		if _, err := hex.Decode(id.dst, []byte(id.text)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestWrite(t *testing.T) {
	c := idsOf(t, long, span, parent)
	half := idsOf(t, strings.Repeat("0", 16)+short, span, "")
	sampled := c
	sampled.Sampled = true
	withState := sampled
	withState.State = []byte("a=b")
	for _, x := range []struct {
		p      Propagation
		c      Context
		single bool
		before []string
		want   string
	}{
		{W3C, sampled, false, nil, "traceparent: 00-" + long + "-" + span + "-01"},
		{W3C, c, false, []string{"Traceparent", "x", "tracestate", "of=another"}, "traceparent: 00-" + long + "-" + span + "-00"},
		{W3C, withState, false, []string{"tracestate", "a=b"}, "traceparent: 00-" + long + "-" + span + "-01, tracestate: a=b"},
		{W3C, half, false, nil, "traceparent: 00-" + strings.Repeat("0", 16) + short + "-" + span + "-00"},
		{B3, sampled, false, nil, "x-b3-parentspanid: " + parent + ", x-b3-sampled: 1, x-b3-spanid: " + span + ", x-b3-traceid: " + long},
		{B3, half, false, []string{"X-B3-ParentSpanId", parent}, "x-b3-sampled: 0, x-b3-spanid: " + span + ", x-b3-traceid: " + short},
		{B3, sampled, true, []string{"b3", "1"}, "b3: " + long + "-" + span + "-1-" + parent},
		{B3, half, true, nil, "b3: " + short + "-" + span + "-0"},
		{B3 | W3C, half, true, nil, "b3: " + short + "-" + span + "-0, traceparent: 00-" + strings.Repeat("0", 16) + short + "-" + span + "-00"},
	} {
		ex := exchangeWith(x.before...)
		x.p.write(ex, &x.c, x.single)
		if got := sortedFields(&ex.Req.Fields); got != x.want {
			t.Errorf("got %s, want %s", got, x.want)
		}
	}
}

func sortedFields(fields *http.Fields) string {
	var out []string
	for _, f := range fields.All() {
		out = append(out, strings.ToLower(string(f.Name))+": "+string(f.Value))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// carrier is the fields of an exchange as OpenTelemetry's propagators want them.
type carrier struct{ *http.Fields }

func (c carrier) Get(key string) string {
	v, _ := c.Lookup(http.LookupHeader([]byte(key)), []byte(key))
	return string(v)
}
func (carrier) Set(string, string) {}
func (carrier) Keys() []string     { return nil }

// FuzzW3C compares with OpenTelemetry's own reader, which takes less: no capital letters
// in a version that it doesn't know, and no flags that it doesn't know.
func FuzzW3C(f *testing.F) {
	for _, s := range []string{"00-" + long + "-" + span + "-01", "cc-" + long + "-" + span + "-00-x", "ff-" + long + "-" + span + "-01", "00-0-0-0", "00-" + long + "-" + span + "-09"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, parent string) {
		ex := exchangeWith("traceparent", parent)
		got := W3C.read(&ex.Req.Fields)
		want := oteltrace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier{&ex.Req.Fields}))
		if want.IsValid() && !got.traced {
			t.Fatalf("%q is taken by OpenTelemetry and not by us", parent)
		}
		if !got.traced {
			return
		}
		if want.IsValid() && (got.TraceID != want.TraceID() || got.SpanID != want.SpanID() || got.Sampled != want.IsSampled()) {
			t.Fatalf("%q is %s, OpenTelemetry says %v", parent, got.say(), want)
		}
		if !want.IsValid() && (strings.HasPrefix(parent, "00") && parent[53:] < "04") {
			t.Fatalf("%q is taken by us and not by OpenTelemetry", parent)
		}
		rewritten(t, W3C, got)
	})
}

// FuzzB3 compares with OpenTelemetry's reader of B3.
func FuzzB3(f *testing.F) {
	for _, s := range []string{long + "-" + span + "-1-" + parent, short + "-" + span, "0", "d", long + "-" + span + "-x"} {
		f.Add(s, "", "", "", "")
	}
	f.Add("", long, span, "1", parent)
	f.Add("", short, span, "true", "")
	f.Fuzz(func(t *testing.T, single, id, span, sampled, parent string) {
		fields := []string{"x-b3-traceid", id, "x-b3-spanid", span, "x-b3-sampled", sampled, "x-b3-parentspanid", parent}
		if single != "" {
			fields = []string{"b3", single}
		}
		ex := exchangeWith(fields...)
		got := B3.read(&ex.Req.Fields)
		want := oteltrace.SpanContextFromContext(b3.New().Extract(context.Background(), carrier{&ex.Req.Fields}))
		if want.IsValid() && !got.traced {
			t.Fatalf("%q is taken by OpenTelemetry and not by us (%s)", fields, got.say())
		}
		if want.IsValid() && (got.TraceID != want.TraceID() || got.SpanID != want.SpanID() || got.decided && got.Sampled != want.IsSampled()) {
			t.Fatalf("%q is %s, OpenTelemetry says %v", fields, got.say(), want)
		}
		if got.traced {
			rewritten(t, B3, got)
		}
	})
}

// rewritten: what is written of a context is read as the same again.
func rewritten(t *testing.T, p Propagation, f found) {
	t.Helper()
	f.State = nil
	ex := exchangeWith()
	p.write(ex, &f.Context, f.single)
	again := p.read(&ex.Req.Fields)
	if again.Context.TraceID != f.TraceID || again.SpanID != f.SpanID || again.ParentID != f.ParentID && p == B3 || again.Sampled != f.Sampled || !again.decided {
		t.Fatalf("%s was written, and is read as %s", f.say(), again.say())
	}
}
