// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"io"
	"testing"
)

// TestProbe: nothing, session tickets, which are nothing to a reader, data that stay
// to be read, and the end.
func TestProbe(t *testing.T) {
	client, server := pair(t)
	probe := func(data bool, want error) {
		t.Helper()
		for range 2 { // looking changes nothing
			if got, err := client.Probe(); got != data || err != want {
				t.Fatalf("data %v, %v; want %v, %v", got, err, data, want)
			}
		}
	}
	probe(false, nil)
	if client.tap.in.Len() != 0 || client.Buffered() {
		t.Error("a session ticket is left")
	}
	if _, err := server.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	if err := client.Await(); err != nil {
		t.Fatal(err)
	}
	probe(true, nil)
	p := make([]byte, 8)
	if n, err := io.ReadFull(client, p[:2]); n != 2 || string(p[:2]) != "hi" || err != nil {
		t.Errorf("%q, %v", p[:n], err)
	}
	probe(false, nil)
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := client.Await(); err != nil {
		t.Fatal(err)
	}
	probe(false, io.EOF)
}
