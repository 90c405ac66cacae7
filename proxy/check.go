// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"strings"

	"pillion/proxy/config"
	"pillion/proxy/istio"
	"pillion/proxy/istio/source"
)

// Checked is what reading and compiling configuration gave.
type Checked struct {
	// Problems are errors and warnings, in the order of files and lines.
	Problems []source.Problem
	// Objects is the number of resources read.
	Objects   int
	Resources *istio.Resources // nil if reading or translating failed
}

// Failed reports whether there is an error among the problems.
func (c *Checked) Failed() bool {
	for _, p := range c.Problems {
		if !p.Warning {
			return true
		}
	}
	return false
}

// Check reads the configuration that o names as a server would, compiles it,
// and serves nothing.
func Check(o Options) *Checked {
	o.setDefaults()
	c := load(&o)
	if c.Failed() {
		return c
	}
	comp := config.NewCompiler(config.Env{})
	defer comp.Close()
	if _, err := comp.Compile(compilerInput(c.Resources)); err != nil {
		c.Problems = append(c.Problems, compileProblems(err)...)
	}
	return c
}

// load reads and translates.
func load(o *Options) *Checked {
	set, problems := source.Load(o.Paths, source.Options{DefaultNamespace: o.Namespace, Strict: o.Strict, Stdin: o.Stdin})
	c := &Checked{Problems: problems}
	if set != nil {
		defer set.Release()
		c.Problems = append(c.Problems, set.Warnings...)
		c.Objects = len(set.Objects)
	}
	if c.Failed() {
		return c
	}
	to := translateOptions(o)
	if o.MeshConfig != "" {
		mesh, problems := source.LoadMeshConfig(o.MeshConfig)
		c.Problems = append(c.Problems, problems...)
		if mesh == nil {
			return c
		}
		to.MeshConfig = mesh
	}
	res, problems := istio.Translate(set.Objects, to)
	c.Problems = append(c.Problems, problems...)
	c.Resources = res
	return c
}

func translateOptions(o *Options) istio.Options {
	return istio.Options{
		Namespace:      o.Namespace,
		Labels:         o.Labels,
		ServiceAccount: o.ServiceAccount,
		WorkloadName:   o.Workload,
		CertsDir:       o.CertsDir,
		Identity:       o.Identity.live(),
		HTTPAddr:       o.HTTPAddr,
		Listen:         o.Listen,
		Inbound:        o.Inbound,

		ProtocolDetectionTimeout: o.DetectionTimeout,
	}
}

func compilerInput(r *istio.Resources) *config.Resources {
	return &config.Resources{Listeners: r.Listeners, Routes: r.Routes, Clusters: r.Clusters, Endpoints: r.Endpoints, ServiceCluster: r.ServiceCluster}
}

// compileProblems makes problems of a compiler's joined errors, which name
// xDS resources and not lines.
func compileProblems(err error) []source.Problem {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []source.Problem{{Reason: err.Error()}}
	}
	var out []source.Problem
	for _, e := range joined.Unwrap() {
		out = append(out, source.Problem{Reason: e.Error()})
	}
	return out
}

// ConfigError is a configuration that was refused.
type ConfigError struct{ Problems []source.Problem }

// Error names every error among the problems.
func (e *ConfigError) Error() string {
	var b strings.Builder
	for _, p := range e.Problems {
		if !p.Warning {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(p.String())
		}
	}
	return b.String()
}

// Summary counts the errors, in words.
func (e *ConfigError) Summary() string {
	n := 0
	for _, p := range e.Problems {
		if !p.Warning {
			n++
		}
	}
	if n == 1 {
		return "the configuration has an error"
	}
	return fmt.Sprintf("the configuration has %d errors", n)
}
