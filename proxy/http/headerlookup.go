// SPDX-License-Identifier: Apache-2.0

package http

import "encoding/binary"

// maxKnownName bounds the length of well-known names; a multiple of 8.
const maxKnownName = 40

// nameWords is one well-known name in a form that is compared without case
// eight octets at a time: word i holds the octets from 8*i on, or the last
// eight where that would reach over the end. fold has bit 0x20 set at the
// places of letters, the only difference that is no difference.
type nameWords struct {
	word, fold [maxKnownName / 8]uint64
}

// lookupTable finds the number of a name: first by a hash of it, then along
// next while candidates have the same hash. Immutable.
type lookupTable struct {
	first [1024]HeaderID
	next  [numHeaderIDs]HeaderID
	words [numHeaderIDs]nameWords
}

var headerTable = makeHeaderTable()

func makeHeaderTable() *lookupTable {
	t := &lookupTable{}
	for id := HeaderOther + 1; id < numHeaderIDs; id++ {
		name := headerNameBytes[id]
		if len(name) > maxKnownName {
			panic("http: maxKnownName is too small for " + headerNames[id])
		}
		k := hashName(name)
		t.next[id], t.first[k] = t.first[k], id
		for i := 0; i < len(name) && len(name) >= 8; i += 8 {
			t.words[id].set(i/8, name[min(i, len(name)-8):])
		}
	}
	return t
}

func (w *nameWords) set(i int, name []byte) {
	w.word[i] = binary.LittleEndian.Uint64(name)
	for k, c := range name[:8] {
		if 'a' <= c && c <= 'z' {
			w.fold[i] |= 0x20 << (8 * k)
		}
	}
}

// match reports whether name, of the same length of at least 8, is this one.
func (w *nameWords) match(name []byte) bool {
	last := len(name) - 8
	diff := (binary.LittleEndian.Uint64(name) ^ w.word[0]) &^ w.fold[0]
	for i := 8; i < len(name); i += 8 {
		diff |= (binary.LittleEndian.Uint64(name[min(i, last):]) ^ w.word[i/8]) &^ w.fold[i/8]
	}
	return diff == 0
}

// hashName mixes the length with three octets, as if all were small letters.
func hashName(name []byte) uint {
	n := len(name)
	return (uint(n)*37 + uint(name[0]|0x20)*7 + uint(name[n-1]|0x20)*131 + uint(name[n/2]|0x20)*17) & 1023
}

// LookupHeader returns the number of a field name, compared without case.
func LookupHeader(name []byte) HeaderID {
	if len(name) == 0 || len(name) > maxKnownName {
		return HeaderOther
	}
	t := headerTable
	for id := t.first[hashName(name)]; id != HeaderOther; id = t.next[id] {
		known := headerNameBytes[id]
		if len(known) != len(name) {
			continue
		}
		if len(name) >= 8 && t.words[id].match(name) || len(name) < 8 && EqualFold(known, name) {
			return id
		}
	}
	return HeaderOther
}
