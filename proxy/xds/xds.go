// SPDX-License-Identifier: Apache-2.0

// Package xds is a client of Envoy's aggregated discovery service. It keeps one
// stream to a server, asks for what its Sink wants, and answers for what the
// Sink took. It knows no kind of resource: bodies go to the Sink as they came.
package xds

import corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

// Resource is one resource as the server sent it.
type Resource struct {
	// Name is its name; Version is what the server calls it, which may be empty
	// (istiod's are). The state of the world has no version of a resource: it is
	// the one of the whole.
	Name, Version string
	// Body is the serialized message. It belongs to whoever receives it.
	Body []byte
}

// Update is one response of a server: resources of one type, each name once.
type Update struct {
	// TypeURL says of which, type.googleapis.com/ included.
	TypeURL string
	// Version is what the server calls the whole (system_version_info, or
	// version_info of the state of the world).
	Version string
	// Resources are new or changed.
	Resources []Resource
	// Removed names what is gone.
	Removed []string
	// Full says that Resources is all there is of the type, so that what isn't
	// among them is gone too. Only the state-of-the-world protocol says so, and only of
	// types that are subscribed to as a whole. A response of which something
	// couldn't be read is never full: what that was called isn't known.
	Full bool
}

// Sink takes what servers send. All its methods are called by one goroutine,
// one after the other.
type Sink interface {
	// Apply takes an update. An error goes back to the server as it is: its text
	// names each resource that was refused, and the field. What isn't named was
	// taken all the same.
	Apply(u *Update) error
	// Have returns the names and versions of what is held of a type, for the
	// first request of a new stream.
	Have(typeURL string) map[string]string
}

// Subscriber is told what to ask for. *Client is one. Its methods may be called
// from anywhere, from a Sink too.
type Subscriber interface {
	// Want replaces the names that are asked for of a type. The client works out
	// what that means on the wire.
	Want(typeURL string, names []string)
}

// Node says who asks.
type Node = corev3.Node
