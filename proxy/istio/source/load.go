// SPDX-License-Identifier: Apache-2.0

// Package source reads Istio and Kubernetes resources from YAML and JSON: files,
// directories and standard input.
package source

import "io"

// Options says how Load reads.
type Options struct {
	// DefaultNamespace is the namespace of a resource that names none.
	DefaultNamespace string
	// Strict makes errors of the warnings about unknown kinds, unknown fields and
	// unsupported resources.
	Strict bool
	// Stdin is what the path "-" reads; nil makes "-" an error.
	Stdin io.Reader
}

// Load reads every resource that the paths name. The second result holds errors; when
// it isn't empty the set is nil: configuration is taken as a whole or not at all.
func Load(paths []string, o Options) (*Set, []Problem) {
	return &Set{}, nil
}
