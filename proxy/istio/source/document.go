// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// file is the content of one file. It is immutable.
type file struct {
	name string // as named to people
	data []byte
}

// document is one YAML document of a file. It is immutable.
type document struct {
	*file
	from, to int // its text is data[from:to]
	above    int // lines of the file before it
	lines    int // lines of its own
}

func (d *document) text() []byte { return d.data[d.from:d.to] }

// split cuts a file into its documents. A marker at the start of a line ends a document
// whatever surrounds it (YAML 1.2.2 §9.1.2: document markers can't occur inside a
// scalar), so this needs no parser, and an error in one document leaves the others
// readable.
func split(f *file) []document {
	var docs []document
	next := document{file: f} // the document being gathered
	marked := false           // it began with "---"
	content := false          // it holds more than comments and directives
	flush := func(to, line int) {
		next.to, next.lines = to, line-next.above
		if marked || content {
			docs = append(docs, next)
		}
		marked, content = false, false
		next.from, next.above = to, line
	}
	line := 0
	for at := 0; at < len(f.data); line++ {
		end := len(f.data)
		if i := bytes.IndexByte(f.data[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		text := f.data[at:end]
		switch {
		case isMarker(text, "---"):
			if marked || content {
				flush(at, line)
			}
			marked = true
		case isMarker(text, "..."):
			flush(end, line+1)
		case !content:
			t := bytes.TrimSpace(text)
			content = len(t) > 0 && t[0] != '#' && text[0] != '%'
		}
		at = end
	}
	flush(len(f.data), line)
	return docs
}

// isMarker reports whether a line is the document marker, alone or followed by space.
func isMarker(line []byte, marker string) bool {
	if !bytes.HasPrefix(line, []byte(marker)) {
		return false
	}
	return len(line) == len(marker) || strings.IndexByte(" \t\r\n", line[len(marker)]) >= 0
}

// syntaxError is text that isn't YAML.
type syntaxError struct {
	line   int // in the file
	reason string
}

// parse reads the document's tree, with the lines of nodes as in the file. A document
// with nothing in it gives nil, nil.
func (d *document) parse() (*yaml.Node, *syntaxError) {
	if root := parseJSON(d.text()); root != nil {
		shiftLines(root, d.above)
		return root, nil
	}
	root, err := parseYAML(d.text())
	if err != nil {
		line, reason := locate(d.text(), err)
		return nil, &syntaxError{line: d.above + line, reason: reason}
	}
	if root == nil || root.Kind != yaml.DocumentNode || len(root.Content) == 0 {
		return nil, nil
	}
	root = root.Content[0]
	shiftLines(root, d.above)
	return root, nil
}

// errSecondDocument is text in which the YAML library finds a document marker where
// split found none, because it takes CR, NEL, LS and PS for line ends too (YAML 1.1).
// Reading on past it would mean to skip what follows in silence.
var errSecondDocument = errors.New("a document marker follows a line end other than LF or CRLF; use LF")

// parseYAML reads exactly one document.
func parseYAML(text []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	root, err := decodeNext(dec)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := decodeNext(dec); err == nil {
		return nil, errSecondDocument
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return root, nil
}

// decodeNext reads the next document; io.EOF says that there is none.
func decodeNext(dec *yaml.Decoder) (root *yaml.Node, err error) {
	// The library reports what it expects to fail by panics that it recovers itself;
	// the rest are its own "internal error: please report" on input it didn't foresee.
	// Configuration from a file must not be able to end the process.
	defer func() {
		if p := recover(); p != nil {
			root, err = nil, fmt.Errorf("can't be parsed (%v)", p)
		}
	}()
	root = &yaml.Node{}
	err = dec.Decode(root)
	return root, err
}

// stream reads documents that follow one another in a file with one parser, because to
// make a parser costs as much as to read a small document with it. It gives up on
// anything unusual, which is then read document by document.
type stream struct {
	dec   *yaml.Decoder // nil when it has given up
	above int           // lines of the file before the first document
}

func newStream(docs []document) *stream {
	first, last := &docs[0], &docs[len(docs)-1]
	text := first.data[first.from:last.to]
	// The library carries anchors over to the next document, where they must be unknown;
	// and JSON has a parser of its own.
	if len(docs) == 1 || bytes.IndexByte(text, '&') >= 0 || slices.ContainsFunc(docs, func(d document) bool { return looksLikeJSON(d.text()) }) {
		return &stream{}
	}
	return &stream{dec: yaml.NewDecoder(bytes.NewReader(text)), above: first.above}
}

// next returns the tree of d, which must be the next document; nil when d is to be
// parsed by itself.
func (s *stream) next(d *document) *yaml.Node {
	if s.dec == nil {
		return nil
	}
	root, err := decodeNext(s.dec)
	if err == nil && len(root.Content) == 1 {
		root = root.Content[0]
		shiftLines(root, s.above)
		if d.above < root.Line && root.Line <= d.above+d.lines {
			return root
		}
	}
	s.dec = nil
	return nil
}

// shiftLines makes lines of a document lines of its file.
func shiftLines(n *yaml.Node, by int) {
	if by == 0 {
		return
	}
	n.Line += by
	for _, c := range n.Content {
		shiftLines(c, by)
	}
}

// maxLocate bounds the text that locate parses again and again: 1 MiB takes about 3 s.
const maxLocate = 1 << 20

var yamlErrorLine = regexp.MustCompile(`^line (\d+): `)

// locate finds the line, counted from 1, at which text stops being YAML, and the reason.
//
// The library names the line at which the enclosing construct began, counts it from 0
// or from 1 depending on its layer, and leaves it out when it is 0. So the line is
// searched for: it is the last one of the shortest piece of text that fails in the same
// way. For a bracket or quote that is never closed that is the line where it opens.
func locate(text []byte, err error) (line int, reason string) {
	line, reason = 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlErrorLine.FindStringSubmatch(reason); m != nil {
		line, _ = strconv.Atoi(m[1]) // \d+ of a line number that an int held before
		reason = reason[len(m[0]):]
	}
	if len(text) <= maxLocate {
		ends := lineEnds(text)
		lo, hi := 0, len(ends)-1 // the answer is in [lo, hi]
		for lo < hi {
			mid := (lo + hi) / 2
			if _, e := parseYAML(text[:ends[mid]]); e != nil && e.Error() == err.Error() {
				hi = mid
			} else {
				lo = mid + 1
			}
		}
		line = lo + 1
	}
	return line, "invalid YAML: " + reason
}

// lineEnds returns the offset behind each line; at least one.
func lineEnds(text []byte) []int {
	var ends []int
	for i, c := range text {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	if len(ends) == 0 || ends[len(ends)-1] < len(text) {
		ends = append(ends, len(text))
	}
	return ends
}

// utf8BOM may begin a file; it isn't part of the first document.
const utf8BOM = "\xef\xbb\xbf"

// badUTF8 returns the line, counted from 1, of the first byte that isn't UTF-8; 0 when
// there is none. YAML knows UTF-16 too, but document markers are looked for in bytes.
func badUTF8(data []byte) int {
	if utf8.Valid(data) {
		return 0
	}
	line := 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			break
		}
		if r == '\n' {
			line++
		}
		data = data[size:]
	}
	return line
}
