// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net"
	"net/netip"
	"strconv"

	"pillion/proxy/pool"
)

// discovery is the names that a cluster's hosts come from.
type discovery struct {
	logical bool
	names   []discovered
}

// discovered is one endpoint whose address may be a name.
type discovered struct {
	endpoint Endpoint
	host     string
	port     uint16
	literal  netip.Addr // valid when host is an address
	sub      *dnsSub    // nil for a literal
}

// addresses returns where the endpoint is now.
func (d *discovered) addresses() []netip.Addr {
	if d.sub == nil {
		return []netip.Addr{d.literal}
	}
	return d.sub.addresses()
}

// discover has the names of cfg resolved in place of earlier ones. Hosts are
// made of what is known already; the rest follows in the background. mu is
// held.
func (c *Cluster) discover(cfg *Config) {
	dns := cfg.DNS
	if dns == nil {
		dns = &DNS{}
	}
	d := &discovery{logical: cfg.Discovery == LogicalDNS}
	for _, e := range cfg.Endpoints {
		x := discovered{endpoint: e}
		var port string
		var err error
		if x.host, port, err = net.SplitHostPort(e.Address); err != nil {
			continue // Manager.Apply has refused such configurations
		}
		n, _ := strconv.ParseUint(port, 10, 16)
		x.port = uint16(n)
		if x.literal, err = netip.ParseAddr(x.host); err != nil {
			x.literal = netip.Addr{}
			x.sub = c.manager.dns.subscribe(x.host, dns, c.Stats, c.resolved)
		}
		d.names = append(d.names, x)
	}
	// The old subscriptions end last, so that names that stay keep their
	// addresses.
	c.stopDiscovery()
	c.dns = d
	c.applyNames(c.config.Load())
}

// stopDiscovery ends the resolution of names. mu is held.
func (c *Cluster) stopDiscovery() {
	if c.dns != nil {
		c.dns.unsubscribe()
		c.dns = nil
	}
}

// unsubscribe leaves the addresses as they are.
func (d *discovery) unsubscribe() {
	for _, x := range d.names {
		if x.sub != nil {
			x.sub.unsubscribe()
		}
	}
}

// resolved is called when a name got other addresses.
func (c *Cluster) resolved() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dns != nil && !c.closed {
		c.applyNames(c.config.Load())
	}
}

// applyNames makes hosts of the addresses that are known now. mu is held.
func (c *Cluster) applyNames(cfg *Config) {
	if c.dns.logical {
		c.applyLogical(cfg)
		return
	}
	var eps []Endpoint
	for i := range c.dns.names {
		x := &c.dns.names[i]
		for _, a := range x.addresses() {
			e := x.endpoint
			e.Address = netip.AddrPortFrom(a, x.port).String()
			if x.sub != nil {
				e.Hostname = x.host
			}
			eps = append(eps, e)
		}
	}
	c.setEndpoints(cfg, eps)
}

// applyLogical makes the one host of a LOGICAL_DNS cluster. Its address for
// display is the first one; connections go to any that the name has when
// they are made. mu is held.
func (c *Cluster) applyLogical(cfg *Config) {
	var list []*Host
	if len(c.dns.names) > 0 {
		x := c.dns.names[0]
		if addrs := x.addresses(); len(addrs) > 0 {
			e := x.endpoint
			e.Hostname = x.host
			e.Address = netip.AddrPortFrom(addrs[0], x.port).String()
			var old *Host
			// The host's pool resolves by its own subscription, so that it
			// can only be kept for the same name.
			if len(c.list) > 0 && c.list[0].hostname == x.host && samePort(c.list[0].Facts.Address, x.port) {
				old = c.list[0]
			}
			list = []*Host{c.newHost(cfg, old, &e, pool.Target{Address: x.endpoint.Address, Resolve: c.resolveLogical})}
		}
	}
	c.setHosts(cfg, list)
}

func samePort(address string, port uint16) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Port() == port
}

// resolveLogical returns the current addresses of a LOGICAL_DNS cluster.
func (c *Cluster) resolveLogical(context.Context) ([]netip.AddrPort, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dns == nil || len(c.dns.names) == 0 {
		return nil, &pool.ResolveError{Reason: "the cluster is gone"}
	}
	x := &c.dns.names[0]
	var out []netip.AddrPort
	for _, a := range x.addresses() {
		out = append(out, netip.AddrPortFrom(a, x.port))
	}
	return out, nil
}
