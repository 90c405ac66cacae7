// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"testing"
	"testing/synctest"
)

// TestDelta plays the rules of the delta protocol.
func TestDelta(t *testing.T) {
	for name, script := range map[string]string{
		"types are asked for as a whole, in order, and by the first request it is told who asks": `
			open
			> CDS node:me
			> LDS
			>`,
		"an answer names the nonce and nothing else": `
			open
			> CDS node:me
			> LDS
			push CDS n1 v1 a@7=1 b=2
			= CDS v1 a@7=1 b=2
			> CDS ack n1
			push CDS n2 v2 a=3 -b
			= CDS v2 a=3 -b
			> CDS ack n2
			>`,
		"what is refused is told with its reason, and the next update is taken": `
			open
			> CDS node:me
			> LDS
			refuse cluster a: lb_policy: 77 is unknown
			push CDS n1 v1 a=1
			= CDS v1 a=1
			> CDS nack(3) n1 {cluster a: lb_policy: 77 is unknown}
			push CDS n2 v2 a=2
			= CDS v2 a=2
			> CDS ack n2`,
		"an update that holds nothing is an update": `
			open
			> CDS node:me
			> LDS
			push LDS n1 v1
			= LDS v1
			> LDS ack n1`,
		"names are subscribed to, and a change has no nonce": `
			open
			> CDS node:me
			> LDS
			want EDS b a
			> EDS +a +b
			push EDS n1 v1 a=1 b=1
			= EDS v1 a=1 b=1
			> EDS ack n1
			want EDS b c
			> EDS +c -a
			want EDS b c
			>
			want EDS
			> EDS -b -c
			want EDS d
			> EDS +d`,
		"nothing is asked for by name before there is a name": `
			want EDS
			open
			> CDS node:me
			> LDS
			>
			want EDS a
			> EDS +a`,
		"names that would ask for everything aren't sent": `
			open
			> CDS node:me
			> LDS
			want EDS *
			>
			want CDS a
			>`,
		"what isn't wanted any more is dropped, and answered": `
			open
			> CDS node:me
			> LDS
			want EDS a b
			> EDS +a +b
			want EDS b
			> EDS -a
			push EDS n1 v1 a=1 b=1 -c
			= EDS v1 b=1
			> EDS ack n1`,
		"a type that wasn't asked for is ignored": `
			open
			> CDS node:me
			> LDS
			push RDS n1 v1 a=1
			push type.googleapis.com/x.Y n2 v1 a=1
			push CDS n3 v1
			=  CDS v1
			> CDS ack n3
			>`,
		"what is gone is told": `
			open
			> CDS node:me
			> LDS
			want EDS a
			> EDS +a
			push EDS n1 v1 -a
			= EDS v1 -a
			> EDS ack n1`,
		"two updates at once are answered each with its nonce": `
			open
			> CDS node:me
			> LDS
			refuse a: no
			push CDS n1 v1 a=1
			push CDS n2 v2 a=2
			= CDS v1 a=1
			= CDS v2 a=2
			> CDS nack(3) n1 {a: no}
			> CDS ack n2`,
		"a new stream begins afresh and says what is held": `
			open
			> CDS node:me
			> LDS
			want RDS 80
			> RDS +80
			push CDS n1 v1 a=1 b@2=1
			= CDS v1 a=1 b@2=1
			> CDS ack n1
			have CDS a@ b@2
			have RDS 80@ 443@9
			have LDS @7
			want RDS 80 81
			> RDS +81
			end try another
			open
			> CDS node:me held:a@ held:b@2
			> LDS
			> RDS +80 +81 held:80@
			>`,
		"a type of which nothing is wanted any more isn't asked for anew": `
			open
			> CDS node:me
			> LDS
			want EDS a
			> EDS +a
			want EDS
			> EDS -a
			end again
			open
			> CDS node:me
			> LDS
			>`,
		"a resource of another type is refused alone": `
			open
			> CDS node:me
			> LDS
			push CDS n1 v1 a=1 !b=2
			= CDS v1 a=1
			> CDS nack(3) n1 {resource 1 of the response, "b", is of type "type.googleapis.com/istio.networking.nds.v1.NameTable" and not of "type.googleapis.com/envoy.config.cluster.v3.Cluster"}`,
		"of two contents under one name neither is taken, of one twice it is": `
			open
			> CDS node:me
			> LDS
			push CDS n1 v1 a=1 b=2 a=3 b=2
			= CDS v1 b=2
			> CDS nack(3) n1 {"a" stands in the response twice, with different contents}`,
		"a resource that is both sent and removed stays": `
			open
			> CDS node:me
			> LDS
			push CDS n1 v1 a=1 -a -b
			= CDS v1 a=1 -b
			> CDS nack(3) n1 {"a" is both sent and removed}`,
		"a response of which nothing can be read isn't an empty one": `
			open
			> CDS node:me
			> LDS
			push CDS n1 v1 !a=1
			=
			> CDS nack(3) n1 {resource 0 of the response, "a", is of type "type.googleapis.com/istio.networking.nds.v1.NameTable" and not of "type.googleapis.com/envoy.config.cluster.v3.Cluster"}`,
		"a type may be of one resource without a name": `
			open
			> CDS node:me
			> LDS
			push LDS n1 v1 =1
			= LDS v1 =1
			> LDS ack n1`,
	} {
		t.Run(name, func(t *testing.T) { play(t, false, script) })
	}
}

// TestStateOfTheWorld plays the rules of the other protocol.
func TestStateOfTheWorld(t *testing.T) {
	for name, script := range map[string]string{
		"an answer repeats what is asked for, with the version that was taken": `
			open
			> CDS node:me
			> LDS
			want EDS b a
			> EDS a b
			push CDS n1 v1 a=1
			= CDS v1 a=1 full
			> CDS at n1 version:v1
			push EDS n2 v1 a=1
			= EDS v1 a=1
			> EDS at n2 version:v1 a b`,
		"a refusal has the version before": `
			open
			> CDS node:me
			> LDS
			push CDS n1 v1 a=1
			= CDS v1 a=1 full
			> CDS at n1 version:v1
			refuse a: no
			push CDS n2 v2 a=2
			= CDS v2 a=2 full
			> CDS nack(3) n2 {a: no} version:v1
			push CDS n3 v3 a=3
			= CDS v3 a=3 full
			> CDS at n3 version:v3`,
		"a change is the whole list, and nothing is wanted by an empty one": `
			open
			> CDS node:me
			> LDS
			want EDS a
			> EDS a
			want EDS a b
			> EDS a b
			push EDS n1 v1 a=1 b=1
			= EDS v1 a=1 b=1
			> EDS at n1 version:v1 a b
			want EDS b c
			> EDS at n1 version:v1 b c
			want EDS c b
			>
			want EDS
			> EDS at n1 version:v1
			want EDS d
			> EDS at n1 version:v1 d`,
		"a change that crossed a response is repeated by its answer": `
			open
			> CDS node:me
			> LDS
			want EDS a
			> EDS a
			push EDS n1 v1 a=1
			= EDS v1 a=1
			> EDS at n1 version:v1 a
			want EDS a b
			> EDS at n1 version:v1 a b
			push EDS n2 v2 a=2
			= EDS v2 a=2
			> EDS at n2 version:v2 a b
			>`,
		"a change that crossed a response that is refused is said again": `
			open
			> CDS node:me
			> LDS
			want EDS a
			> EDS a
			push EDS n1 v1 a=1
			= EDS v1 a=1
			> EDS at n1 version:v1 a
			want EDS a b
			> EDS at n1 version:v1 a b
			refuse a: no
			push EDS n2 v2 a=2
			= EDS v2 a=2
			> EDS nack(3) n2 {a: no} version:v1 a b
			> EDS at n2 version:v1 a b
			>`,
		"a new stream begins with the version and without a nonce": `
			open
			> CDS node:me
			> LDS
			want RDS 80
			> RDS 80
			push CDS n1 v1 a=1
			= CDS v1 a=1 full
			> CDS at n1 version:v1
			end again
			open
			> CDS node:me version:v1
			> LDS
			> RDS 80
			>`,
		"what can't be read may be anything, so nothing is gone": `
			open
			> CDS node:me
			> LDS
			push CDS n1 v1 a=1 b
			= CDS v1 a=1
			> CDS nack(3) n1 {resource 1 of the response can't be read: "b" has no name}`,
		"a resource of another type has no name here": `
			open
			> CDS node:me
			> LDS
			push CDS n1 v1 a=1 !b=2
			= CDS v1 a=1
			> CDS nack(3) n1 {resource 1 of the response, "", is of type "type.googleapis.com/istio.networking.nds.v1.NameTable" and not of "type.googleapis.com/envoy.config.cluster.v3.Cluster"}`,
		"what isn't wanted any more is dropped": `
			open
			> CDS node:me
			> LDS
			want EDS a b
			> EDS a b
			want EDS b
			> EDS b
			push EDS n1 v1 a=1 b=1
			= EDS v1 b=1
			> EDS at n1 version:v1 b`,
	} {
		t.Run(name, func(t *testing.T) { play(t, true, script) })
	}
}

func play(t *testing.T, world bool, script string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, world, &fakeServer{}, nil, func(r *rig, _ *Options) { r.sink.have = map[string]map[string]string{} })
		r.script(world, script)
	})
}
