// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// subject is one object while it is being read and validated: the object, the tree that
// it comes from, and where its problems go. One goroutine owns it.
type subject struct {
	*Object
	root   *yaml.Node // the object's mapping
	top    *place     // of root
	strict bool       // Options.Strict
	out    *report
}

// fail reports an error at a node.
func (s *subject) fail(n *yaml.Node, at *place, format string, args ...any) {
	s.out.addError(s.problem(n.Line, at, fmt.Sprintf(format, args...)))
}

// failAt reports an error at a field below a place; field may be empty for the place itself.
func (s *subject) failAt(at *place, field, format string, args ...any) {
	at = below(at, field)
	s.out.addError(s.problem(lineAt(s.root, at), at, fmt.Sprintf(format, args...)))
}

// warnAt reports a warning at a field below a place. Strict doesn't touch it: what
// passes here is understood and taken.
func (s *subject) warnAt(at *place, field, format string, args ...any) {
	at = below(at, field)
	s.out.addWarning(s.problem(lineAt(s.root, at), at, fmt.Sprintf(format, args...)))
}

// ignored reports something that is in the configuration and has no effect: a warning,
// or an error when Options.Strict asks for it.
func (s *subject) ignored(n *yaml.Node, at *place, format string, args ...any) {
	p := s.problem(n.Line, at, fmt.Sprintf(format, args...))
	if s.strict {
		s.out.addError(p)
	} else {
		s.out.addWarning(p)
	}
}

// unknownField reports a key that isn't among the names of its mapping.
func (s *subject) unknownField(key *yaml.Node, at *place, names func() []string) {
	hint := ""
	if !s.out.full() {
		hint = didYouMean(key.Value, names())
	}
	s.ignored(key, at, "unknown field %q%s", clip(key.Value), hint)
}

func (s *subject) problem(line int, at *place, reason string) Problem {
	return Problem{File: s.File, Line: line, Object: s.label(), Field: at.String(), Reason: reason}
}

// label names the object as far as its document does.
func (s *subject) label() string {
	if s.Name == "" {
		return s.Kind
	}
	return s.ID()
}

func below(at *place, field string) *place {
	if field == "" {
		return at
	}
	return at.key(field)
}

// maxProblems is how many errors, and how many warnings, one Load reports. Who has more
// has one mistake made by a program, and reads the first few.
const maxProblems = 1000

// report gathers problems in the order of their discovery.
type report struct {
	errors, warnings               []Problem // at most maxProblems each
	droppedErrors, droppedWarnings int
}

func (r *report) full() bool {
	return len(r.errors) >= maxProblems || len(r.warnings) >= maxProblems
}

func (r *report) addError(p Problem) {
	if len(r.errors) >= maxProblems {
		r.droppedErrors++
		return
	}
	r.errors = append(r.errors, p)
}

func (r *report) addWarning(p Problem) {
	if len(r.warnings) >= maxProblems {
		r.droppedWarnings++
		return
	}
	p.Warning = true
	r.warnings = append(r.warnings, p)
}

// merge appends what another report gathered.
func (r *report) merge(from *report) {
	for _, p := range from.errors {
		r.addError(p)
	}
	for _, p := range from.warnings {
		r.addWarning(p)
	}
	r.droppedErrors += from.droppedErrors
	r.droppedWarnings += from.droppedWarnings
}

// sort brings the problems of one document into the order of lines.
func (r *report) sort() {
	byLine := func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) }
	slices.SortStableFunc(r.errors, byLine)
	slices.SortStableFunc(r.warnings, byLine)
}

// close adds a last line for the problems that were dropped.
func (r *report) close() {
	if r.droppedErrors > 0 {
		r.errors = append(r.errors, Problem{Reason: fmt.Sprintf("%d more errors aren't shown", r.droppedErrors)})
	}
	if r.droppedWarnings > 0 {
		r.warnings = append(r.warnings, Problem{Warning: true, Reason: fmt.Sprintf("%d more warnings aren't shown", r.droppedWarnings)})
	}
}
