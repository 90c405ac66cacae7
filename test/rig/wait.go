// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// Until calls try again and again until it returns nil, and fails the test
// with the last error when Patience has run out.
func Until(t testing.TB, what string, try func() error) {
	t.Helper()
	UntilWithin(t, Patience, what, try)
}

// UntilWithin is Until with another patience.
func UntilWithin(t testing.TB, patience time.Duration, what string, try func() error) {
	t.Helper()
	if err := await(patience, try); err != nil {
		t.Fatalf("after %v it isn't so that %s: %v", patience, what, err)
	}
}

// Await is Until for code that isn't a test: it returns the last error.
func Await(try func() error) error { return await(Patience, try) }

func await(patience time.Duration, try func() error) error {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// Ports given to the servers of a test lie below the range from which the
// kernel takes the ports of outgoing connections (32768 and up by default),
// so that no connection can take one between here and the server's start.
const firstPort, lastPort = 20000, 32000

// nextPort is where the search for a free port goes on: one for the whole
// process, so that two tests never get the same port.
var nextPort atomic.Int64

// FreeAddr returns an address on loopback that nothing listens on, and that no
// other test is given, of whatever process, until this one ends.
func FreeAddr(t testing.TB) string {
	t.Helper()
	// Another test process starts its search somewhere else.
	start := int64(os.Getpid()) * 97
	for range lastPort - firstPort {
		port := firstPort + (start+nextPort.Add(1))%(lastPort-firstPort)
		claim, err := net.Listen("unix", fmt.Sprintf("@pillion-test-port-%d", port))
		if err != nil {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if ln, err := net.Listen("tcp", addr); err == nil {
			_ = ln.Close()
			t.Cleanup(func() { _ = claim.Close() })
			return addr
		}
		_ = claim.Close()
	}
	t.Fatal("no free port")
	return ""
}
