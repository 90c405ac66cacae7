// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// slowAdmitter says what it is told to, or nothing until it is given up.
type slowAdmitter struct {
	asked chan struct{}
	says  chan bool
	given chan struct{}
}

func (s *slowAdmitter) Admit(a *filter.Admission) bool {
	close(s.asked)
	a.Details = "no"
	select {
	case yes := <-s.says:
		return yes
	case <-a.Cancelled:
		close(s.given)
		return true // whatever it says now
	}
}

// askRig serves one connection whose admission waits.
func askRig(t *testing.T) (s *slowAdmitter, tr *Tracker, client net.Conn, info *http.ConnInfo, served chan struct{}) {
	t.Helper()
	s = &slowAdmitter{make(chan struct{}), make(chan bool, 1), make(chan struct{})}
	tr = NewTracker()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	m := New(&Config{Admit: []filter.Admitter{s}, Routes: new(Routes)}, tr)
	info = &http.ConnInfo{Local: nc.LocalAddr().String(), Remote: nc.RemoteAddr().String(), Logged: true}
	served = make(chan struct{})
	go func() {
		m.Serve(nc, info).Run()
		close(served)
	}()
	<-s.asked
	if tr.Count() != 1 {
		t.Errorf("the tracker knows %d connections", tr.Count())
	}
	return s, tr, client, info, served
}

// TestAdmissionEndsWithADrain: a connection about which filters are asked is known,
// and doesn't outlive a drain.
func TestAdmissionEndsWithADrain(t *testing.T) {
	s, tr, _, _, served := askRig(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	tr.Drain(over)
	<-s.given
	<-served
	if tr.Count() != 0 {
		t.Errorf("%d connections are left", tr.Count())
	}
}

// TestAdmissionAfterADrain: one that comes to be served when the drain is over is
// given up at once.
func TestAdmissionAfterADrain(t *testing.T) {
	tr := NewTracker()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	first := New(&Config{}, tr)
	client, server := net.Pipe()
	defer client.Close()
	go func() { first.Serve(server, &http.ConnInfo{}).Run() }() // so that there is something to break off
	for tr.Count() == 0 {
		if _, err := client.Write([]byte("G")); err != nil {
			t.Fatal(err)
		}
	}
	tr.Drain(over)
	s := &slowAdmitter{make(chan struct{}), make(chan bool, 1), make(chan struct{})}
	late, other := net.Pipe()
	defer late.Close()
	New(&Config{Admit: []filter.Admitter{s}}, tr).Serve(other, &http.ConnInfo{}).Run()
	<-s.given
}

// TestAdmissionEndsWithItsClient: nobody is asked any more about a client that broke
// off.
func TestAdmissionEndsWithItsClient(t *testing.T) {
	s, tr, client, _, served := askRig(t)
	_ = client.(*net.TCPConn).SetLinger(0)
	_ = client.Close()
	tr.sweep(http.Now() + int64(2*sweepEvery))
	<-s.given
	<-served
}

// TestAdmissionIsReported: what a refusal says is there for the listener's log.
func TestAdmissionIsReported(t *testing.T) {
	s, tr, client, info, served := askRig(t)
	tr.sweep(http.Now() + int64(time.Hour)) // however long it takes
	s.says <- false
	if text, err := io.ReadAll(client); err != nil || len(text) > 0 {
		t.Errorf("the client gets %q, %v", text, err)
	}
	<-served
	if o := info.Outcome(); o.TerminationDetails != "no" || o.Flags != 0 {
		t.Errorf("%+v", o)
	}
}
