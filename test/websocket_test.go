// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
	"pillion/test/wire"
)

// autobahnCases is how many of Autobahn's cases are run: those for the
// protocol itself. Groups 9, 12 and 13 measure, and try the compression of
// one implementation.
const autobahnCases = 247

// echoServer starts Node's ws as an echo and returns its port.
func echoServer(t testing.TB, options ...string) string {
	t.Helper()
	port := freePort(t)
	script := filepath.Join(need.Root(t), "test", "testdata", "ws", "echo.js")
	interopServer(t, port, append([]string{need.Program(t, "node"), script, wsPackage(t), port}, options...)...)
	return port
}

func wsPackage(t testing.TB) string { return need.Tool(t, "ws", "node_modules", "ws") }

// autobahn runs the cases against a server and returns what each found, by
// the case's id.
func autobahn(t *testing.T, addr string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command(need.Tool(t, "bin", "kosoku"), "-m", "fuzzingclient", "-x", "9.*", "-x", "12.*", "-x", "13.*",
		"-p", "8", "-o", dir, addr).CombinedOutput()
	text, readErr := os.ReadFile(filepath.Join(dir, "index.json"))
	if readErr != nil {
		t.Fatalf("kosoku made no report: %v, %v\n%s", readErr, err, out)
	}
	var report map[string]map[string]struct {
		Behavior      string `json:"behavior"`
		BehaviorClose string `json:"behaviorClose"`
	}
	if err := json.Unmarshal(text, &report); err != nil || len(report) != 1 {
		t.Fatalf("kosoku's report holds %d servers (%v)", len(report), err)
	}
	found := map[string]string{}
	for _, cases := range report {
		for id, c := range cases {
			found[id] = c.Behavior + ", closing " + c.BehaviorClose
		}
	}
	if len(found) != autobahnCases {
		t.Errorf("kosoku ran %d cases, want %d", len(found), autobahnCases)
	}
	return found
}

// bridge takes WebSocket to the proxy by extended CONNECT. A server of
// HTTP/1 wants Sec-WebSocket-Key, which a client of RFC 8441 doesn't send, so
// the proxy has to add it. Envoy doesn't.
func bridge(t *testing.T, f front) string {
	t.Helper()
	return wire.NewBridge(t, f.gateway, rig.Patience, *subjectName == "envoy").Addr
}

// TestAutobahn runs Autobahn's cases of broken and unbroken WebSocket
// directly against a server and through the proxy: over HTTP/1, and with a
// bridge before the proxy by extended CONNECT (RFC 8441). What each finds has
// to be the same, byte for byte of the tunnel that is.
func TestAutobahn(t *testing.T) {
	t.Parallel()
	port := echoServer(t)
	f := startFront(t, "HTTP", port)
	direct := autobahn(t, "127.0.0.1:"+port)
	for name, addr := range map[string]string{
		"over HTTP/1":           f.gateway,
		"over extended CONNECT": bridge(t, f),
	} {
		t.Run(name, func(t *testing.T) {
			through := autobahn(t, addr)
			for _, id := range slices.Sorted(maps.Keys(direct)) {
				if direct[id] != through[id] {
					t.Errorf("case %s: direct %q, through the proxy %q", id, direct[id], through[id])
				}
			}
		})
	}
}

// TestNodeWebSocket runs Node's ws against itself: subprotocols, compression,
// fragments of all sizes, pings and the code of the close. Envoy fails it over
// extended CONNECT now and then: where the server closes, its RST_STREAM
// overtakes the last bytes, and the code of the close is lost.
func TestNodeWebSocket(t *testing.T) {
	t.Parallel()
	f := startFront(t, "HTTP", echoServer(t, "deflate"))
	node, script := need.Program(t, "node"), filepath.Join("testdata", "ws", "client.js")
	for name, addr := range map[string]string{
		"over HTTP/1":           f.gateway,
		"over extended CONNECT": bridge(t, f),
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command(node, script, wsPackage(t), "ws://"+addr+"/some/path?q=1", "20").CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != "OK" {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
