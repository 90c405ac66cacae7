// SPDX-License-Identifier: Apache-2.0

package config

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
)

// TestHashOfKnownOctets: a cluster has one hash, whoever serialized it. Another one would
// make every reload a change of all clusters.
func TestHashOfKnownOctets(t *testing.T) {
	c := &clusterv3.Cluster{Name: "a", AltStatName: "a;"}
	cla := &endpointv3.ClusterLoadAssignment{ClusterName: "a"}
	octets := map[proto.Message][]byte{}
	for _, m := range []proto.Message{c, cla} {
		wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		octets[m] = wire
	}
	want, err := contentHash(c, cla, "h2", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, known := range map[string]map[proto.Message][]byte{
		"both":     octets,
		"cluster":  {c: octets[c]},
		"endpoint": {cla: octets[cla]},
	} {
		if got, err := contentHash(c, cla, "h2", known); err != nil || got != want {
			t.Errorf("%s known: %x, %v; want %x", name, got, err, want)
		}
	}
}
