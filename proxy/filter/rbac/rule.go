// SPDX-License-Identifier: Apache-2.0

// Package rbac is Envoy's role based access control: the filters
// envoy.filters.http.rbac and envoy.filters.network.rbac. A policy is a plain
// immutable tree of what it asks for, so that the same value which decides can
// say what it decides by.
package rbac

import (
	"fmt"
	"net/netip"
	"strings"

	"pillion/proxy/filter"
	"pillion/proxy/match"
)

// Op is what a Rule asks for.
type Op uint8

// The operations. The zero value matches nothing, so that a rule which was
// forgotten can't let anybody in.
const (
	Never Op = iota
	Any
	And
	Or
	Not
	Header
	Path          // without query and fragment
	Template      // of a path, without query and fragment
	DestinationIP // where the client meant to connect to
	DestinationPort
	ServerName     // SNI
	Authenticated  // the peer has a verified certificate
	Principal      // one of its names is
	SourceIP       // of the connection
	DirectRemoteIP // of the connection
	RemoteIP       // of the client, as X-Forwarded-For tells
	Metadata
)

// Rule is a permission or a principal. Immutable.
type Rule struct {
	Op    Op
	Rules []Rule                // of And and Or; the one of Not
	Field *filter.HeaderMatcher // of Header
	Text  match.String          // of Path, ServerName and Principal
	Shape *Shape                // of Template
	Range netip.Prefix          // of the operations on an IP address
	// From and To are ports: those from From to before To.
	From, To uint32
	Data     *DataMatcher // of Metadata
}

// matches reports whether the rule holds.
func (r *Rule) matches(in *input) bool {
	switch r.Op {
	case Any:
		return true
	case And:
		for i := range r.Rules {
			if !r.Rules[i].matches(in) {
				return false
			}
		}
		return true
	case Or:
		return anyMatches(r.Rules, in)
	case Not:
		return !r.Rules[0].matches(in)
	case Header:
		return in.head != nil && r.Field.Match(in.head)
	case Path:
		path, ok := in.path()
		return ok && r.Text.Match(path)
	case Template:
		path, ok := in.path()
		return ok && r.Shape.Match(path)
	case ServerName:
		return r.Text.Match(in.serverName())
	case Authenticated:
		return in.peer() != nil
	case Principal:
		return r.principal(in)
	case Metadata:
		return r.Data.match(in.data)
	}
	return r.address(in)
}

// anyMatches reports whether one of the rules holds.
func anyMatches(rules []Rule, in *input) bool {
	for i := range rules {
		if rules[i].matches(in) {
			return true
		}
	}
	return false
}

// address decides what goes by an address of the connection.
func (r *Rule) address(in *input) bool {
	switch r.Op {
	case DestinationIP:
		return r.Range.Contains(in.destination().Addr())
	case DestinationPort:
		d := in.destination()
		return d.IsValid() && r.From <= uint32(d.Port()) && uint32(d.Port()) < r.To
	case SourceIP, DirectRemoteIP:
		return r.Range.Contains(in.direct())
	case RemoteIP:
		return r.Range.Contains(in.remote())
	}
	return false
}

// principal compares the peer's names: those that are URIs, those of DNS, and
// the subject (Envoy: AuthenticatedMatcher::matches). An encrypted connection
// whose peer isn't known has, as with Envoy, the empty name.
func (r *Rule) principal(in *input) bool {
	if in.conn.TLS == nil {
		return false
	}
	peer := in.peer()
	if peer == nil {
		return r.Text.Match(nil)
	}
	for _, name := range peer.URIs {
		if r.Text.MatchString(name) {
			return true
		}
	}
	for _, name := range peer.DNS {
		if r.Text.MatchString(name) {
			return true
		}
	}
	return r.Text.MatchString(peer.Subject)
}

var opWords = [...]string{Never: "never", Any: "any", Path: "path ", Template: "path ", ServerName: "server name ",
	Authenticated: "authenticated", Principal: "principal ", DestinationIP: "destination ip in ", SourceIP: "source ip in ",
	DirectRemoteIP: "direct remote ip in ", RemoteIP: "remote ip in ", Metadata: "metadata "}

// String describes the rule.
func (r *Rule) String() string {
	switch r.Op {
	case And, Or:
		return r.list()
	case Not:
		return "not " + r.Rules[0].String()
	case Header:
		return r.Field.String()
	case Path, ServerName, Principal:
		return opWords[r.Op] + r.Text.String()
	case Template:
		return opWords[r.Op] + r.Shape.String()
	case DestinationPort:
		if r.To == r.From+1 {
			return fmt.Sprintf("destination port %d", r.From)
		}
		return fmt.Sprintf("destination port in [%d, %d)", r.From, r.To)
	case DestinationIP, SourceIP, DirectRemoteIP, RemoteIP:
		return opWords[r.Op] + r.Range.String()
	case Metadata:
		return opWords[r.Op] + r.Data.String()
	}
	return opWords[r.Op]
}

func (r *Rule) list() string {
	word := " and "
	if r.Op == Or {
		word = " or "
	}
	parts := make([]string, len(r.Rules))
	for i := range r.Rules {
		parts[i] = r.Rules[i].String()
	}
	return "(" + strings.Join(parts, word) + ")"
}
