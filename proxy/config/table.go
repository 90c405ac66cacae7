// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/router"
)

// Built is a table that was compiled for a place.
type Built struct {
	place  *Place
	table  *router.Table
	hosts  map[bodySum]*builtHost
	header []byte
	// Warnings name what was left out, Reused is the number of virtual hosts that had
	// not changed since the last table of the place.
	Warnings []string
	Reused   int
}

// builtHost is a compiled virtual host with what was said about it.
type builtHost struct {
	vh       *router.VirtualHost
	warnings []string
}

// Publish has the managers of the place use the table.
func (b *Built) Publish() {
	b.place.hosts, b.place.header, b.place.table = b.hosts, b.header, b.table
	b.place.routes.Store(b.table)
}

// maxBuiltChains bounds the chains of a place that are kept to be shared with
// virtual hosts still to come.
const maxBuiltChains = 256

// Table compiles a route configuration, as it was received, for a place. A server sends
// it as a whole for a change in one virtual host; only what has changed is
// decoded and compiled. p may be nil: the routes are checked then as far as
// that can be done without knowing the filters that they are served under.
func (c *Compiler) Table(p *Place, body []byte) (*Built, error) {
	hosts, header, err := splitHosts(body)
	if err != nil {
		return nil, err
	}
	rc := &routev3.RouteConfiguration{}
	if err := proto.Unmarshal(header, rc); err != nil {
		return nil, err
	}
	out := &Built{place: p, hosts: make(map[bodySum]*builtHost, len(hosts)), header: header}
	rt, root, b, err := c.beginTable(p, rc, out)
	if err != nil {
		return nil, err
	}
	seen := len(out.Warnings)
	for i, raw := range hosts {
		sum := sumOf(raw)
		if p != nil {
			if old := p.hosts[sum]; old != nil && bytes.Equal(p.header, header) && out.hosts[sum] == nil {
				if err := rt.enter(b, root.item("virtual_hosts", i), old.vh, domainsOf(raw)); err != nil {
					return nil, err
				}
				out.hosts[sum] = old
				out.Warnings = append(out.Warnings, old.warnings...)
				out.Reused++
				seen = len(out.Warnings)
				continue
			}
		}
		vh := &routev3.VirtualHost{}
		at := root.item("virtual_hosts", i)
		if err := proto.Unmarshal(raw, vh); err != nil {
			return nil, at.errorf("%w", err)
		}
		made, err := rt.virtualHost(at, vh)
		if err != nil {
			return nil, err
		}
		if err := rt.enter(b, at, made, vh.GetDomains()); err != nil {
			return nil, err
		}
		out.hosts[sum] = &builtHost{made, append([]string(nil), out.Warnings[seen:]...)}
		seen = len(out.Warnings)
	}
	out.table = b.Table()
	return out, nil
}

// beginTable begins the compilation of a table that may take over virtual hosts
// of the place's current one.
func (c *Compiler) beginTable(p *Place, rc *routev3.RouteConfiguration, out *Built) (*routeCompiler, *place, *router.Builder, error) {
	env := RouteEnv{Cluster: func(string) router.Cluster { return nil }, Chain: noChain}
	if p != nil {
		if len(p.chains.built) > maxBuiltChains {
			clear(p.chains.built)
		}
		env = c.routeEnv(p, rc.GetName(), &out.Warnings)
		p.chains.warn = env.Warn
	}
	rt, root, opt, err := beginRoutes(rc, env)
	if err != nil {
		return nil, nil, nil, err
	}
	if p != nil && p.table != nil && bytes.Equal(p.header, out.header) {
		return rt, root, router.NewSuccessor(p.table), nil
	}
	return rt, root, router.NewBuilder(opt), nil
}

// Numbers of fields: RouteConfiguration.virtual_hosts and VirtualHost.domains.
const (
	virtualHostsField = 2
	domainsField      = 2
)

// splitHosts returns the virtual hosts of a serialized RouteConfiguration, each
// serialized, and the rest of it. To decode them apart is the same as together: a
// repeated field is nothing but its elements.
func splitHosts(body []byte) (hosts [][]byte, rest []byte, err error) {
	for len(body) > 0 {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return nil, nil, fmt.Errorf("is no valid message: %w", protowire.ParseError(n))
		}
		m := protowire.ConsumeFieldValue(num, typ, body[n:])
		if m < 0 {
			return nil, nil, fmt.Errorf("is no valid message: %w", protowire.ParseError(m))
		}
		if num == virtualHostsField && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(body[n:])
			hosts = append(hosts, v)
		} else {
			rest = append(rest, body[:n+m]...)
		}
		body = body[n+m:]
	}
	return hosts, rest, nil
}

// domainsOf returns the domains of a serialized VirtualHost that was decoded
// before.
func domainsOf(raw []byte) (out []string) {
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return out
		}
		m := protowire.ConsumeFieldValue(num, typ, raw[n:])
		if m < 0 {
			return out
		}
		if num == domainsField && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(raw[n:])
			out = append(out, string(v))
		}
		raw = raw[n+m:]
	}
	return out
}
