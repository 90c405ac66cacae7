// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/admin"
	"pillion/proxy/config"
)

// dump keeps the served resources as bytes: decoded they would take many
// times the memory, and they are looked at rarely.
type dump struct {
	clusters, listeners, routes, endpoints []named
}

type named struct {
	name string
	any  *anypb.Any
}

// newDump serializes r, and leaves in r what the compiler would serialize again.
func newDump(r *config.Resources) (*dump, error) {
	d := &dump{}
	var err error
	pack := func(list *[]named, name string, m proto.Message) *anypb.Any {
		a := new(anypb.Any)
		if e := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); e != nil && err == nil {
			err = fmt.Errorf("%s: %w", name, e)
		}
		*list = append(*list, named{name, a})
		return a
	}
	for _, m := range r.Listeners {
		pack(&d.listeners, m.GetName(), m)
	}
	for _, m := range r.Routes {
		pack(&d.routes, m.GetName(), m)
	}
	octets := make(map[proto.Message][]byte, len(r.Clusters)+len(r.Endpoints))
	for _, m := range r.Clusters {
		octets[m] = pack(&d.clusters, m.GetName(), m).GetValue()
	}
	for _, m := range r.Endpoints {
		octets[m] = pack(&d.endpoints, m.GetClusterName(), m).GetValue()
	}
	if err == nil {
		r.Octets = octets
	}
	return d, err
}

// configView shows the served configuration to /config_dump.
type configView struct{ s *Server }

func (v configView) ConfigDump() admin.Dump {
	if v.s.live != nil {
		return v.s.liveDump()
	}
	v.s.applyMu.Lock()
	cur := v.s.current
	v.s.applyMu.Unlock()
	if cur == nil {
		return admin.Dump{}
	}
	version := fmt.Sprint(cur.version)
	return admin.Dump{
		ClustersVersion:  version,
		ListenersVersion: version,
		Clusters:         resources(cur.dump.clusters, version, cur.at),
		Listeners:        resources(cur.dump.listeners, version, cur.at),
		Routes:           resources(cur.dump.routes, version, cur.at),
		Endpoints:        resources(cur.dump.endpoints, version, cur.at),
		Secrets:          secretResources(v.s.secrets),
	}
}

func resources(list []named, version string, at time.Time) []admin.Resource {
	out := make([]admin.Resource, len(list))
	for i, n := range list {
		out[i] = admin.Resource{Name: n.name, Version: version, Updated: at, Message: n.any}
	}
	return out
}
