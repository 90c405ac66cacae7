// SPDX-License-Identifier: Apache-2.0

// Package tls is the encryption and the identity of connections: what a
// handshake demands of the other side and shows it, and the live certificates
// that it is made with. It alone makes configurations of crypto/tls, so that
// no check of an identity can be forgotten elsewhere.
//
// A Server or a Client is made once of configuration and holds on to Secrets.
// Each handshake asks whether one of them has changed since the last; only
// then is a configuration of crypto/tls made anew. What that made of old
// secrets (sessions, verdicts about peers) goes with it.
package tls
