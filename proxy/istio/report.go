// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"

	"pillion/proxy/istio/source"
)

// report collects what is wrong with the configuration, each thing once: a resource is
// often looked at several times, as for every port of a service.
type report struct {
	problems []source.Problem
	seen     map[source.Problem]struct{}
	failed   bool // there is a problem that isn't a warning
}

func (r *report) add(p source.Problem) {
	if _, ok := r.seen[p]; ok {
		return
	}
	if r.seen == nil {
		r.seen = make(map[source.Problem]struct{})
	}
	r.seen[p] = struct{}{}
	r.problems = append(r.problems, p)
	r.failed = r.failed || !p.Warning
}

// errorf reports something for which the configuration is refused.
func (r *report) errorf(obj *source.Object, field, format string, args ...any) {
	r.add(obj.Problem(field, format, args...))
}

// warnf reports something that has no effect, or not the one that was meant.
func (r *report) warnf(obj *source.Object, field, format string, args ...any) {
	r.add(obj.Warn(field, format, args...))
}

// unsupportedf reports a field that this build doesn't act on.
func (r *report) unsupportedf(obj *source.Object, field, format string, args ...any) {
	r.warnf(obj, field, "not supported yet by this build, ignored: "+format, args...)
}

// place names a resource and where it stands, for messages about another one.
func place(obj *source.Object) string {
	if obj.File == "" {
		return obj.ID()
	}
	return fmt.Sprintf("%s (%s:%d)", obj.ID(), obj.File, obj.Line)
}
