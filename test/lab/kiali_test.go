// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// kialiDump is what Kiali shows of a pod's /config_dump: names of fields and
// types as its decoder wants them. (It doesn't know JSON's other names of
// fields: httpFilters for http_filters.)
type kialiDump struct {
	Clusters  []kialiCluster
	Listeners []kialiListener
	Routes    []kialiRoutes
}

type kialiCluster struct {
	Name     string     `json:"name"`
	Type     string     `json:"type"`
	Metadata *kialiFrom `json:"metadata"`
}

// kialiFrom names the object of Istio that something was made of.
type kialiFrom struct {
	Filters *struct {
		Istio *struct {
			Config string `json:"config"`
		} `json:"istio"`
	} `json:"filter_metadata"`
}

type kialiListener struct {
	Address struct {
		Socket struct {
			Address string  `json:"address"`
			Port    float64 `json:"port_value"`
		} `json:"socket_address"`
	} `json:"address"`
	Chains  []kialiChain `json:"filter_chains"`
	Default *kialiChain  `json:"default_filter_chain"`
}

type kialiChain struct {
	Match *struct {
		Protocols   []string `json:"application_protocols"`
		Transport   string   `json:"transport_protocol"`
		ServerNames []string `json:"server_names"`
		Port        *int32   `json:"destination_port"`
		Ranges      []struct {
			Prefix string `json:"address_prefix"`
			Length int    `json:"prefix_len"`
		} `json:"prefix_ranges"`
	} `json:"filter_chain_match"`
	Filters []struct {
		Name   string `json:"name"`
		Config struct {
			Type    string       `json:"@type"`
			Cluster string       `json:"cluster"`
			Routes  *kialiRoutes `json:"route_config"`
			RDS     *struct {
				Name string `json:"route_config_name"`
			} `json:"rds"`
		} `json:"typed_config"`
	} `json:"filters"`
}

type kialiRoutes struct {
	Name  string `json:"name"`
	Hosts []struct {
		Name    string   `json:"name"`
		Domains []string `json:"domains"`
		Routes  []struct {
			Name     string         `json:"name"`
			Match    map[string]any `json:"match"`
			Metadata *kialiFrom     `json:"metadata"`
			Route    *struct {
				Cluster string `json:"cluster"`
			} `json:"route"`
		} `json:"routes"`
	} `json:"virtual_hosts"`
}

// kiali is what it would show of a pod, but for Envoy's bootstrap, as lines of
// JSON.
func (o *operator) kiali(t *testing.T, pod string) []string {
	t.Helper()
	file, err := o.save(pod, "config_dump")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	type cluster struct{ Cluster kialiCluster }
	type state struct{ Listener kialiListener }
	type routes struct {
		Config kialiRoutes `json:"route_config"`
	}
	var dump struct {
		Configs []struct {
			Clusters       []cluster `json:"dynamic_active_clusters"`
			StaticClusters []cluster `json:"static_clusters"`
			Listeners      []struct {
				State state `json:"active_state"`
			} `json:"dynamic_listeners"`
			Routes       []routes `json:"dynamic_route_configs"`
			StaticRoutes []routes `json:"static_route_configs"`
		}
	}
	if err := json.Unmarshal(text, &dump); err != nil {
		t.Fatalf("%s: %v", pod, err)
	}
	d := &kialiDump{}
	for _, c := range dump.Configs {
		for _, e := range append(c.Clusters, c.StaticClusters...) {
			if !slices.Contains(bootstrapNames, e.Cluster.Name) {
				d.Clusters = append(d.Clusters, e.Cluster)
			}
		}
		for _, e := range c.Listeners {
			d.Listeners = append(d.Listeners, e.State.Listener)
		}
		for _, e := range append(c.Routes, c.StaticRoutes...) {
			if !slices.Contains(bootstrapNames, e.Config.Name) {
				d.Routes = append(d.Routes, e.Config)
			}
		}
	}
	if len(d.Clusters) < 30 || len(d.Listeners) < 3 || len(d.Routes) < 3 {
		t.Fatalf("%s has %d clusters, %d listeners, %d routes", pod, len(d.Clusters), len(d.Listeners), len(d.Routes))
	}
	slices.SortStableFunc(d.Clusters, func(a, b kialiCluster) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(d.Routes, func(a, b kialiRoutes) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(d.Listeners, func(a, b kialiListener) int {
		x, y := a.Address.Socket, b.Address.Socket
		return cmp.Or(cmp.Compare(x.Address, y.Address), cmp.Compare(x.Port, y.Port))
	})
	lines, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(lines), "\n")
}
