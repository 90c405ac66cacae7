// SPDX-License-Identifier: Apache-2.0

package h1

// The defaults of Limits; the first two are Envoy's max_request_headers_kb
// and max_headers_count.
const (
	defaultMaxHeadBytes = 60 << 10
	defaultMaxFields    = 100
	defaultMaxChunkLine = 4 << 10
)

// Limits bounds what a parser accepts. A zero field stands for its default,
// so that the zero value, and a nil pointer, are ready to use. Immutable once
// in use, and shared by connections.
type Limits struct {
	// MaxHeadBytes bounds a head, or a trailer section, in bytes with all its
	// line ends. Default 60 KiB.
	MaxHeadBytes int
	// MaxFields bounds the field lines of a head or a trailer section.
	// Default 100.
	MaxFields int
	// MaxChunkLine bounds the line that opens a chunk, with its extensions,
	// in bytes. Default 4 KiB.
	MaxChunkLine int
	// AllowConnect accepts CONNECT with its authority-form target.
	AllowConnect bool
}

func (l *Limits) headBytes() int {
	if l == nil || l.MaxHeadBytes == 0 {
		return defaultMaxHeadBytes
	}
	return l.MaxHeadBytes
}

func (l *Limits) fields() int {
	if l == nil || l.MaxFields == 0 {
		return defaultMaxFields
	}
	return l.MaxFields
}

func (l *Limits) chunkLine() int {
	if l == nil || l.MaxChunkLine == 0 {
		return defaultMaxChunkLine
	}
	return l.MaxChunkLine
}

func (l *Limits) connect() bool { return l != nil && l.AllowConnect }
