// SPDX-License-Identifier: Apache-2.0

// Package live keeps what is served as the resources say that a control plane
// sends, in whatever order they come. It holds each resource as it was received,
// compiles what is new, and commits it so that nothing is named before it is
// there: clusters with their endpoints first, then routes and listeners, and
// last the removal of what nothing names any more.
package live
