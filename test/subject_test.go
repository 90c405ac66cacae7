// SPDX-License-Identifier: Apache-2.0

package test

import (
	"flag"
	"net"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
)

// subjectName chooses which proxy the tests of protocols judge. With a real
// Envoy in our place they show what they are worth: a job that no proxy can
// do proves nothing.
var subjectName = flag.String("subject", "ours", `which proxy the tests of protocols drive: "ours", or "envoy" on the same YAML`)

// startSubject runs the proxy that the tests of protocols judge.
func startSubject(t testing.TB, flags []string, paths ...string) *rig.Proxy {
	t.Helper()
	if *subjectName == "envoy" {
		return startEnvoy(t, flags, paths...)
	}
	p := rig.Start(t, binaries.Static(t), rig.Options{Args: flags}, paths...)
	t.Cleanup(func() {
		if strings.Contains(p.Stderr.String(), "panic") {
			t.Error("the proxy's log tells of a panic")
		}
	})
	return p
}

// startEnvoy runs a real Envoy with what the proxy would serve.
func startEnvoy(t testing.TB, flags []string, paths ...string) *rig.Proxy {
	t.Helper()
	envoy := need.Envoy(t)
	http, admin := rig.FreeAddr(t), rig.FreeAddr(t)
	args := append([]string{"translate", "-o", "envoy", "--http", http, "--admin", admin}, flags...)
	bootstrap, stderr, code := command(t, "", append(args, paths...)...)
	if code != 0 {
		t.Fatalf("translate -o envoy: exit code %d: %s", code, stderr)
	}
	if !strings.Contains(bootstrap, `"allowConnect"`) {
		// What the proxy does by itself where WebSocket may be asked for.
		bootstrap = strings.ReplaceAll(bootstrap, `"upgradeConfigs": [`, `"http2ProtocolOptions": {"allowConnect": true}, "upgradeConfigs": [`)
	}
	return rig.StartEnvoy(t, envoy, bootstrap, http, admin)
}

// front is the judged proxy with a gateway's port of its own, on which every
// authority is served by one application: programs that we didn't write name
// the address that they connect to.
type front struct {
	*rig.Proxy
	gateway string // address
	port    string // of gateway
}

// startFront puts the proxy in front of an application. protocol is that of
// the application's port, as in a Service: HTTP, HTTP2 or GRPC.
func startFront(t testing.TB, protocol, port string) front {
	t.Helper()
	gateway := rig.FreeAddr(t)
	_, gatewayPort, _ := net.SplitHostPort(gateway)
	dir := t.TempDir()
	fill(t, dir, "front.yaml", "gateway", gatewayPort, "name", strings.ToLower(protocol), "protocol", protocol, "port", port)
	p := startSubject(t, []string{"--labels", "istio=ingressgateway"}, dir)
	return front{p, gateway, gatewayPort}
}
