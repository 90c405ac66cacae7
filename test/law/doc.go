// SPDX-License-Identifier: Apache-2.0

// Package law holds the house rules that a machine can check, as tests that
// read the sources. Each rule says why it is there; what breaks it for a good
// reason is listed in the rule, with that reason. `make check` runs them.
package law
