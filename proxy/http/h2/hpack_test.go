// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"pillion/proxy/http"
	"pillion/proxy/proxytest"
)

// pairsOf lists the fields of a block as the oracle has them.
func pairsOf(b *Block) (out []hpack.HeaderField) {
	for i := range b.fields {
		f := &b.fields[i]
		out = append(out, hpack.HeaderField{Name: string(f.Name), Value: string(f.Value), Sensitive: f.NeverIndex})
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	p, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// roomy is a decoder whose limits no test meets by chance.
func roomy() *decoder { return newDecoder(1<<30, 1<<20) }

// TestDecodeExamples holds the examples of RFC 7541, appendix C.
func TestDecodeExamples(t *testing.T) {
	d := roomy()
	for _, tc := range []struct{ in, want string }{
		{"400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key: custom-header"},
		{"040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path"},
		{"1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret never"},
		{"8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", ":method: GET|:scheme: http|:path: /|:authority: www.example.com"},
		{"8286 84be 5886 a8eb 1064 9cbf", ":method: GET|:scheme: http|:path: /|:authority: www.example.com|cache-control: no-cache"},
	} {
		b, err := d.decode(unhex(t, tc.in))
		if err != nil {
			t.Fatalf("%s: %v", tc.in, err)
		}
		var got []string
		for _, f := range pairsOf(b) {
			s := f.Name + ": " + f.Value
			if f.Sensitive {
				s += " never"
			}
			got = append(got, s)
		}
		if strings.Join(got, "|") != tc.want {
			t.Errorf("%s gives %q, want %q", tc.in, got, tc.want)
		}
	}
	if d.n != 3 || d.size != 55+57+53 {
		t.Errorf("the table has %d entries of %d octets", d.n, d.size)
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     *connError
	}{
		{"index 0", "80", errHpackIndex},
		{"index beyond the tables", "be", errHpackIndex},
		{"name beyond the tables", "7e 01 61", errHpackIndex},
		{"integer cut off", "ff", errHpackInt},
		{"integer of too many octets", "ff ff ff ff ff ff 7f", errHpackInt},
		{"name cut off", "40 05 61 62", errHpackString},
		{"value missing", "40 01 61", errHpackString},
		{"length cut off", "40 7f", errHpackString},
		{"EOS in Huffman code", "40 84 ff ff ff ff 00", errHpackHuffman},
		{"padding of a whole octet", "40 82 1f ff 00", errHpackHuffman},
		{"padding that isn't of ones", "40 81 18 00", errHpackHuffman},
		{"table beyond what was announced", "3f e2 1f", errTableUpdate},
		{"update behind a field", "82 20", errTableUpdate},
	} {
		if _, err := roomy().decode(unhex(t, tc.in)); err != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// TestDecodeSizeUpdate evicts by an update, and takes a table of nothing.
func TestDecodeSizeUpdate(t *testing.T) {
	d := roomy()
	if _, err := d.decode(unhex(t, "40 01 61 01 62 40 01 63 01 64")); err != nil || d.n != 2 {
		t.Fatalf("%v, %d entries", err, d.n)
	}
	// 34 octets have room for one entry: the newest.
	if b, err := d.decode(unhex(t, "3f 03 be")); err != nil || d.n != 1 || string(b.fields[0].Name) != "c" {
		t.Fatalf("%v, %d entries", err, d.n)
	}
	if _, err := d.decode(unhex(t, "20 3f e1 1f 40 01 61 01 62")); err != nil || d.n != 1 || d.max != 4096 {
		t.Fatalf("%v, %d entries below %d", err, d.n, d.max)
	}
	// An entry that is larger than the table empties it and is no error.
	if b, err := d.decode(unhex(t, "3f 02 40 02 61 61 01 62")); err != nil || d.n != 0 || len(b.fields) != 1 {
		t.Fatalf("%v, %d entries", err, d.n)
	}
}

// TestDecodeLimits holds that a block beyond its limits is decoded to the end
// but not kept, by its size as RFC 9113 counts it and by the number of fields.
func TestDecodeLimits(t *testing.T) {
	field := unhex(t, "40 01 61 01 62") // 34 octets, and one index afterwards
	d := newDecoder(100, 50)
	in := append(bytes.Clone(field), 0xbe, 0xbe)
	b, err := d.decode(in)
	if err != nil || !b.over || b.size != 102 || len(b.fields) != 2 || d.n != 1 {
		t.Errorf("%v: over %v, %d octets, %d fields, %d entries", err, b.over, b.size, len(b.fields), d.n)
	}
	d = newDecoder(1<<20, 3)
	if b, err = d.decode(append(bytes.Clone(field), bytes.Repeat([]byte{0xbe}, 20000)...)); err != nil || !b.over || len(b.fields) > 3+maxPseudo {
		t.Errorf("%v: over %v with %d fields", err, b.over, len(b.fields))
	}
	if b, err = d.decode([]byte{0xbe}); err != nil || b.over || len(b.fields) != 1 {
		t.Errorf("the block that follows: %v, over %v", err, b.over)
	}
}

func fieldOf(name, value string) http.Field {
	return http.Field{ID: http.LookupHeader([]byte(name)), Name: []byte(name), Value: []byte(value)}
}

func newEncoder() *encoder {
	e := &encoder{}
	e.init()
	return e
}

// TestEncode holds what the encoder indexes and what it doesn't.
func TestEncode(t *testing.T) {
	e := newEncoder()
	secret := fieldOf("authorization", "Basic abc")
	secret.NeverIndex = true
	for _, tc := range []struct {
		f     http.Field
		again string // how it is encoded the second time, in hex
	}{
		{fieldOf("Content-Type", "text/plain"), "be"},
		{fieldOf("X-Mixed-Case", "Value"), "be"},
		{fieldOf("content-length", "12"), "0f0d023132"},
		{secret, "1f08094261736963206162 63"},
	} {
		e.field(nil, &tc.f)
		if got := e.field(nil, &tc.f); !bytes.Equal(got, unhex(t, tc.again)) {
			t.Errorf("%s is %x, want %s", tc.f.Name, got, tc.again)
		}
	}
	large := fieldOf("x-large", strings.Repeat("~", 3000))
	n := e.n
	if e.field(nil, &large); e.n != n {
		t.Error("an entry of most of the table is kept")
	}
}

// TestEncoderTableSize holds what is told of changes of the table's size.
func TestEncoderTableSize(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  []uint32
		want string
	}{
		{"none", nil, ""},
		{"more than we use", []uint32{65536}, "3fe11f"},
		{"less", []uint32{100}, "3f45"},
		{"less, then more", []uint32{0, 4096}, "203fe11f"},
		{"less and less", []uint32{100, 0}, "20"},
	} {
		e := newEncoder()
		for _, n := range tc.set {
			e.setPeerMax(n)
		}
		if got := e.begin(nil); !bytes.Equal(got, unhex(t, tc.want)) {
			t.Errorf("%s: %x, want %s", tc.name, got, tc.want)
		}
		if got := e.begin(nil); len(got) > 0 {
			t.Errorf("%s: told twice: %x", tc.name, got)
		}
	}
}

// TestIntegers holds both directions together at the edges.
func TestIntegers(t *testing.T) {
	for n := uint(4); n <= 7; n++ {
		for _, v := range []uint64{0, 1, 1<<n - 2, 1<<n - 1, 1 << n, 127, 128, 255, 16383, 16384, 1<<28 - 1, 1<<32 - 1} {
			p := appendInt(nil, 0, n, v)
			got, rest, ok := readInt(append(p, 0x55), n)
			if !ok || got != v || len(rest) != 1 {
				t.Errorf("%d in %d bits is %x, read as %d %v", v, n, p, got, ok)
			}
		}
	}
}

// oracleDecode decodes with hpack. Like ours, a size update may stand at the
// start of a block only, which hpack holds too.
func oracleDecode(d *hpack.Decoder, p []byte) (out []hpack.HeaderField, err error) {
	d.SetEmitFunc(func(f hpack.HeaderField) { out = append(out, f) })
	if _, err = d.Write(p); err == nil {
		err = d.Close()
	}
	return out, err
}

// stricter are the errors for which ours may refuse what hpack takes: hpack
// allows integers of up to 63 bits. Nothing that a frame could hold is as long.
func stricter(err *connError) bool {
	return err == errHpackInt || err == errHpackString || err == errTableUpdate
}

// FuzzDecode decodes blocks on one connection, cut from the input, with the
// decoder and with hpack's.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"82868441 8cf1e3c2e5f23a6ba0ab90f4ff", "400a637573746f6d2d6b65790d637573746f6d2d686561646572be", "203fe11f4001610162be", "1008706173737764 0673656372"} {
		f.Add(unhex(f, s), uint8(9))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		ours, theirs := roomy(), hpack.NewDecoder(defaultTableSize, nil)
		theirs.SetAllowedMaxDynamicTableSize(defaultTableSize)
		for p := range slices.Chunk(in, int(cut)+1) {
			b, err := ours.decode(p)
			want, werr := oracleDecode(theirs, p)
			if err != nil && werr == nil && stricter(err) {
				return
			}
			if (err != nil) != (werr != nil) {
				t.Fatalf("block %x: %v, hpack says %v", p, err, werr)
			}
			if err != nil {
				return
			}
			if got := pairsOf(b); !slices.Equal(got, want) {
				t.Fatalf("block %x gives\n%v, hpack gives\n%v", p, got, want)
			}
			if ours.size > ours.max || ours.n > len(ours.ring) {
				t.Fatalf("the table holds %d octets of %d", ours.size, ours.max)
			}
		}
	})
}

// script reads numbers and strings off a fuzzer's input.
type script struct{ p []byte }

func (s *script) next() byte {
	if len(s.p) == 0 {
		return 0
	}
	c := s.p[0]
	s.p = s.p[1:]
	return c
}

func (s *script) take(n int) []byte {
	n = min(n, len(s.p))
	out := s.p[:n]
	s.p = s.p[n:]
	return out
}

// FuzzEncode encodes blocks of fields that the input chooses, on one table,
// with changes of its size between them, and decodes them with hpack.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("\x03\x01abc\x02def\x01\x05hello\x03\x01abc\xff\x00\x03\x01abc"))
	f.Add(bytes.Repeat([]byte("\x05\x03xyzabcdefgh"), 40))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &script{in}
		e, d := newEncoder(), hpack.NewDecoder(defaultTableSize, nil)
		for block := 0; len(s.p) > 0; block++ {
			var want []hpack.HeaderField
			if c := s.next(); c >= 0xf0 {
				n := uint32(s.next()) * 40
				e.setPeerMax(n)
				d.SetAllowedMaxDynamicTableSize(max(n, e.max))
			}
			out := e.begin(nil)
			for range s.next() & 7 {
				fl, sensitive := fuzzField(s)
				out = e.field(out, &fl)
				want = append(want, hpack.HeaderField{Name: strings.ToLower(string(fl.Name)), Value: string(fl.Value), Sensitive: sensitive})
			}
			got, err := oracleDecode(d, out)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("block %d, %x: %v\n%v, want\n%v", block, out, err, got, want)
			}
			if e.size > e.max {
				t.Fatalf("the table holds %d octets of %d", e.size, e.max)
			}
		}
	})
}

// fuzzField makes a field of a known name or of one that the input spells.
func fuzzField(s *script) (fl http.Field, sensitive bool) {
	c := s.next()
	switch {
	case c&1 == 0:
		id := http.HeaderID(s.next())
		if n := http.HeaderName(id % http.HeaderID(len(staticName)/8)); len(n) > 0 {
			fl = fieldOf(string(n), "")
			break
		}
		fallthrough
	default:
		fl = fieldOf(fmt.Sprintf("X-%x", s.take(int(c>>1&7))), "")
	}
	fl.Value = s.take(int(s.next() & 31))
	if c&0x80 != 0 {
		fl.Value = bytes.Repeat(fl.Value, 60)
	}
	fl.NeverIndex = c&0x40 != 0
	return fl, fl.NeverIndex
}

// steadyHead is a typical request.
func steadyHead() *http.RequestHead {
	h := &http.RequestHead{RawMethod: []byte("GET"), Method: http.MethodGet, Scheme: []byte("http"), Authority: []byte("reviews:9080"), Path: []byte("/reviews/0?x=1")}
	for _, f := range [][2]string{{"user-agent", "curl/8.5.0"}, {"accept", "*/*"}, {"x-request-id", "5ae3c2f1-96ab-4b77-a6a7-3c6a3f2f0c11"},
		{"x-forwarded-proto", "http"}, {"end-user", "jason"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		h.Fields.Append(fieldOf(f[0], f[1]))
	}
	return h
}

// TestNoAllocations holds that heads cost nothing once the tables are warm.
func TestNoAllocations(t *testing.T) {
	e, d, h := newEncoder(), newDecoder(60<<10, 100), steadyHead()
	var ex http.Exchange
	out := make([]byte, 0, 4096)
	round := func() {
		ex.Reset()
		out = e.request(out[:0], h)
		b, err := d.decode(out)
		if err != nil || b.Request(&ex, true) != Good {
			t.Fatal(err)
		}
	}
	round()
	proxytest.NoAllocs(t, "a head", round)
}

func BenchmarkHead(b *testing.B) {
	e, d, h := newEncoder(), newDecoder(60<<10, 100), steadyHead()
	var ex http.Exchange
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		ex.Reset()
		out = e.request(out[:0], h)
		if blk, err := d.decode(out); err != nil || blk.Request(&ex, true) != Good {
			b.Fatal(err)
		}
	}
}
