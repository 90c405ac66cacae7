// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"sync/atomic"
)

// Object is one resource read from YAML. It is immutable after Load and may be
// shared by any number of goroutines.
type Object struct {
	Kind       string // as written, e.g. "VirtualService"
	APIVersion string // as written, e.g. "networking.istio.io/v1beta1"
	Namespace  string // Options.DefaultNamespace when the document names none
	Name       string

	Labels      map[string]string // metadata.labels; nil when there are none
	Annotations map[string]string // metadata.annotations; nil when there are none

	File string // as named by the user or found below a directory the user named; "-" for stdin
	Line int    // 1-based line at which the document's mapping begins

	// Spec is the decoded body, by kind, one of
	//
	//	*networking/v1alpha3.VirtualService, DestinationRule, ServiceEntry,
	//	WorkloadEntry, Gateway, Sidecar
	//	*telemetry/v1alpha1.Telemetry
	//	*security/v1beta1.PeerAuthentication, AuthorizationPolicy, RequestAuthentication
	//	*mesh/v1alpha1.MeshConfig, of LoadMeshConfig alone
	//	*Service, *EndpointSlice, *Secret (of ConfigMaps too)
	//
	// whatever version the document itself names: Istio's versions are aliases of one Go type.
	Spec any

	// origin is where the object's text is kept for Problem; nil for an object made by
	// hand and after Set.Release.
	origin atomic.Pointer[origin]
}

// ID returns "kind/namespace/name", the form in which messages name a resource.
func (o *Object) ID() string { return o.Kind + "/" + o.Namespace + "/" + o.Name }

// Problem makes an error at a field of the object. The field is a path from the
// document's root in JSON names, e.g. "spec.http[0].route[1].weight"; a map key that
// holds a dot or a bracket is written in quotes, `spec.http[0].headers.request.set["a.b"]`.
// The line is that of the field, or of its nearest parent that the document has;
// after Set.Release it is the object's first line.
func (o *Object) Problem(field, format string, args ...any) Problem {
	return Problem{
		File:   o.File,
		Line:   o.lineOf(field),
		Object: o.ID(),
		Field:  field,
		Reason: fmt.Sprintf(format, args...),
	}
}

// Warn is Problem for something that doesn't refuse the set.
func (o *Object) Warn(field, format string, args ...any) Problem {
	p := o.Problem(field, format, args...)
	p.Warning = true
	return p
}

// lineOf returns the line of a field path, at worst the object's own.
func (o *Object) lineOf(field string) int {
	org := o.origin.Load()
	if org == nil || field == "" {
		return o.Line
	}
	if line := org.lineOf(field); line > 0 {
		return line
	}
	return o.Line
}

// Problem is one thing wrong with the configuration, at a place a person can go to.
type Problem struct {
	File    string // as in Object.File
	Line    int    // 1-based; 0 when the problem concerns the file as a whole and has no line
	Object  string // kind/namespace/name, as far as known; may be empty
	Field   string // path of the field; may be empty
	Reason  string // what is wrong and what would be right
	Warning bool   // true: named, but doesn't refuse the set
}

// String returns "file:line: kind/namespace/name: field: reason"; parts that are
// unknown are left out.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, p.Line)
	}
	for _, part := range [...]string{p.Object, p.Field, p.Reason} {
		if part == "" {
			continue
		}
		if s != "" {
			s += ": "
		}
		s += part
	}
	return s
}

// Set is what one Load read.
type Set struct {
	Objects  []*Object // in the order of paths, files and documents; no two with one ID
	Warnings []Problem // in the same order
}

// Release drops the text that Object.Problem and Object.Warn use to find lines. Call
// it once validation and translation are over; later problems carry the object's line.
func (s *Set) Release() {
	for _, o := range s.Objects {
		o.origin.Store(nil)
	}
}
