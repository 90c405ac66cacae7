// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ValueError is something that the pod tells the container and that can't be
// used.
type ValueError struct {
	Place  string // the variable, file or annotation it stands in
	Value  string
	Reason string // completes "X is …"
	Remedy string
}

// Error names the place, the value, the reason, and what to do.
func (e *ValueError) Error() string {
	var b strings.Builder
	b.WriteString(e.Place)
	if e.Value != "" {
		fmt.Fprintf(&b, ": %s", shortened(e.Value))
	}
	fmt.Fprintf(&b, ": %s", e.Reason)
	if e.Remedy != "" {
		fmt.Fprintf(&b, "; %s", e.Remedy)
	}
	return b.String()
}

// shortened quotes a value, and cuts a long one: whole JSON texts are given in
// variables.
func shortened(v string) string {
	const most = 120
	if len(v) > most {
		return strconv.Quote(v[:most]) + "…"
	}
	return strconv.Quote(v)
}

// values are the variables of the environment and those of proxyMetadata, which
// the webhook puts into the environment as they are: what stands in the
// environment itself goes first. Errors gather, so that all are told at once.
// It is owned by Read.
type values struct {
	env      map[string]string
	metadata map[string]string // of the ProxyConfig
	errs     []error
	warnings []string
}

func newValues(environ []string) *values {
	v := &values{env: make(map[string]string, len(environ))}
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			v.env[name] = value
		}
	}
	return v
}

func (v *values) lookup(name string) (string, bool) {
	if s, ok := v.env[name]; ok {
		return s, true
	}
	s, ok := v.metadata[name]
	return s, ok
}

// refuse notes that a value can't be used.
func (v *values) refuse(place, value, reason, remedy string) {
	err := &ValueError{Place: place, Value: value, Reason: reason, Remedy: remedy}
	for _, e := range v.errs {
		if e.Error() == err.Error() {
			return // two who need it say the same
		}
	}
	v.errs = append(v.errs, err)
}

func (v *values) warn(format string, args ...any) {
	v.warnings = append(v.warnings, fmt.Sprintf(format, args...))
}

func (v *values) err() error { return errors.Join(v.errs...) }

// text returns a variable; an empty one has its default, as for Istio's agent.
func (v *values) text(name, def string) string {
	if s, ok := v.lookup(name); ok && s != "" {
		return s
	}
	return def
}

// value parses a variable; def stands for one that isn't there, is empty, or is
// refused.
func value[T any](v *values, name string, def T, form string, parse func(string) (T, error)) T {
	s, ok := v.lookup(name)
	if !ok || s == "" {
		return def
	}
	x, err := parse(s)
	if err != nil {
		v.refuse(name, s, "is not "+form, fmt.Sprintf("set it so, or leave it out for %v", def))
		return def
	}
	return x
}

// flag reads a boolean in the forms of strconv.ParseBool, as Istio's agent does.
func (v *values) flag(name string, def bool) bool {
	return value(v, name, def, "true or false", strconv.ParseBool)
}

func (v *values) number(name string, def int) int {
	return value(v, name, def, "a whole number of 0 or more", func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err == nil && n < 0 {
			err = strconv.ErrRange
		}
		return n, err
	})
}

// portNumber reads a TCP port; 0 where it may be left out.
func (v *values) portNumber(name string, def int, zero bool) int {
	form := "a port, 1 to 65535"
	if zero {
		form = "a port, 0 to 65535"
	}
	return value(v, name, def, form, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err == nil && (n < 0 || n > 65535 || n == 0 && !zero) {
			err = strconv.ErrRange
		}
		return n, err
	})
}

func (v *values) duration(name string, def time.Duration) time.Duration {
	return value(v, name, def, "a time such as 5s", func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err == nil && d < 0 {
			err = strconv.ErrRange
		}
		return d, err
	})
}

// ratio reads a share between 0 and 1.
func (v *values) ratio(name string, def float64) float64 {
	return value(v, name, def, "a number between 0 and 1", func(s string) (float64, error) {
		f, err := strconv.ParseFloat(s, 64)
		if err == nil && !(f >= 0 && f <= 1) {
			err = strconv.ErrRange
		}
		return f, err
	})
}

// choice reads one of a few words.
func (v *values) choice(name, def string, known ...string) string {
	return value(v, name, def, "one of "+strings.Join(known, ", "), func(s string) (string, error) {
		for _, k := range known {
			if s == k {
				return s, nil
			}
		}
		return "", strconv.ErrSyntax
	})
}

// prefixed returns the variables whose names begin with prefix, without it.
func (v *values) prefixed(prefix string) map[string]string {
	out := map[string]string{}
	for _, from := range []map[string]string{v.metadata, v.env} {
		for name, s := range from {
			if rest, ok := strings.CutPrefix(name, prefix); ok && rest != "" {
				out[rest] = s
			}
		}
	}
	return out
}
