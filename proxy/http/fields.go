// SPDX-License-Identifier: Apache-2.0

package http

// Field is one header or trailer field line.
//
// Name and Value alias the connection's read buffer or the compiled
// configuration: they are read-only, and valid until the exchange is done.
// Name keeps the case it was received in (HTTP/1) or is lower case (HTTP/2).
type Field struct {
	ID HeaderID
	// NeverIndex asks that no HTTP/2 hop keeps the value in its compression
	// state (RFC 7541 section 6.2.3).
	NeverIndex bool
	Name       []byte
	Value      []byte
}

// Fields is an ordered list of field lines; the order and the case of names
// are those of the wire. The zero value is an empty list. It is owned by one
// exchange and is not safe for concurrent use.
type Fields struct {
	list []Field
}

// Len returns the number of field lines.
func (f *Fields) Len() int { return len(f.list) }

// At returns a pointer to line i, valid until the next Add or Del.
func (f *Fields) At(i int) *Field { return &f.list[i] }

// All returns the lines in order. The slice is valid until the next change.
func (f *Fields) All() []Field { return f.list }

// Reset empties the list and keeps its memory.
func (f *Fields) Reset() {
	clear(f.list)
	f.list = f.list[:0]
}

// AddID appends a line with a well-known name in its canonical lower-case form.
func (f *Fields) AddID(id HeaderID, value []byte) {
	f.list = append(f.list, Field{ID: id, Name: headerNameBytes[id], Value: value})
}

// Add appends a line. The name's number is looked up here.
func (f *Fields) Add(name, value []byte) {
	f.list = append(f.list, Field{ID: LookupHeader(name), Name: name, Value: value})
}

// Append appends a line whose number the caller already knows.
func (f *Fields) Append(fl Field) { f.list = append(f.list, fl) }

// Get returns the value of the first line with this number.
func (f *Fields) Get(id HeaderID) ([]byte, bool) {
	for i := range f.list {
		if f.list[i].ID == id {
			return f.list[i].Value, true
		}
	}
	return nil, false
}

// Has reports whether a line with this number exists.
func (f *Fields) Has(id HeaderID) bool {
	_, ok := f.Get(id)
	return ok
}

// Lookup returns the value of the first line of that name, compared without
// case; id must be LookupHeader(name).
func (f *Fields) Lookup(id HeaderID, name []byte) ([]byte, bool) {
	if id != HeaderOther {
		return f.Get(id)
	}
	for i := range f.list {
		if f.list[i].ID == HeaderOther && EqualFold(f.list[i].Name, name) {
			return f.list[i].Value, true
		}
	}
	return nil, false
}

// is reports whether a line has the given number and name.
func (fl *Field) is(id HeaderID, name []byte) bool {
	return fl.ID == id && (id != HeaderOther || EqualFold(fl.Name, name))
}

// Is reports whether the line has this name, compared without case; id must
// be LookupHeader(name).
func (fl *Field) Is(id HeaderID, name []byte) bool { return fl.is(id, name) }

// Set replaces the first line of that name, drops further ones, or appends a
// new line; id must be LookupHeader(name).
func (f *Fields) Set(id HeaderID, name, value []byte) {
	for i := range f.list {
		if f.list[i].is(id, name) {
			f.list[i].Value = value
			f.delFrom(i+1, id, name)
			return
		}
	}
	f.list = append(f.list, Field{ID: id, Name: name, Value: value})
}

// SetID is Set for a well-known name.
func (f *Fields) SetID(id HeaderID, value []byte) { f.Set(id, headerNameBytes[id], value) }

// Del drops every line of that name; id must be LookupHeader(name).
func (f *Fields) Del(id HeaderID, name []byte) { f.delFrom(0, id, name) }

// DelID drops every line with this number, which must not be HeaderOther.
func (f *Fields) DelID(id HeaderID) { f.delFrom(0, id, nil) }

func (f *Fields) delFrom(start int, id HeaderID, name []byte) {
	w := start
	for r := start; r < len(f.list); r++ {
		if f.list[r].is(id, name) {
			continue
		}
		if w != r {
			f.list[w] = f.list[r]
		}
		w++
	}
	clear(f.list[w:])
	f.list = f.list[:w]
}

// Truncate drops all lines but the first n: with All, a way to drop many in one
// pass.
func (f *Fields) Truncate(n int) {
	clear(f.list[n:])
	f.list = f.list[:n]
}

// CopyFrom makes f an exact copy of the lines of o; names and values are
// shared, not copied.
func (f *Fields) CopyFrom(o *Fields) {
	f.Reset()
	f.list = append(f.list, o.list...)
}

// EqualFold reports whether a and b are equal without regard to ASCII case.
func EqualFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// EqualFoldString is EqualFold with a string.
func EqualFoldString(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
