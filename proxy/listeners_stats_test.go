// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"pillion/proxy"
	"pillion/proxy/proxytest/inproc"
	"pillion/test/rig"
)

// TestListenerManager holds listener_manager.* to what is done with listeners.
func TestListenerManager(t *testing.T) {
	d := drive(t)
	echo := inproc.Echo(t, "ok")
	d.push(edsOf(t, "a"))
	d.push(hostsOf(t, "a", echo.Port))
	d.push(routesOf(t, "80", "x=a"))
	check := func(what string, want map[string]int) {
		t.Helper()
		page := "\n" + fetch(t, "http://"+d.addr("admin")+"/stats?filter=^(listener_manager|server.total_connections)")
		for name, n := range want {
			if line := fmt.Sprintf("\n%s: %d\n", name, n); !strings.Contains(page, line) {
				t.Errorf("%s: want%sin%s", what, line, page)
			}
		}
	}
	const m = "listener_manager."
	check("at first", map[string]int{m + "total_listeners_active": 0, m + "workers_started": 0, m + "listener_added": 0, m + "total_listeners_warming": 0})
	at := func(name, addr string, chains ...[3]string) *listenerv3.Listener {
		l := listenerOf(t, name, chains...)
		l.GetAddress().GetSocketAddress().Address = addr
		return l
	}
	all := [3]string{"all", "", managerOf("80")}
	l := at("l", "127.0.0.1", all)
	d.push(l)
	check("a new one", map[string]int{m + "listener_added": 1, m + "listener_create_success": 1, m + "total_listeners_active": 1, m + "workers_started": 1})
	c := dialFrom(t, "127.0.0.1", d.addr("l"))
	if status, _, _, err := c.get("x"); status != "200" {
		t.Fatal(status, err)
	}
	check("a connection", map[string]int{"server.total_connections": 1})
	d.push(l)
	check("the same again", map[string]int{m + "listener_added": 1, m + "listener_modified": 0})
	d.push(at("l", "127.0.0.1", [3]string{"one", "127.0.0.9", managerOf("80")}, all))
	check("another chain", map[string]int{m + "listener_modified": 1, m + "listener_in_place_updated": 1, m + "listener_create_success": 1})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := at("busy", "127.0.0.1", all)
	busy.GetAddress().GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: uint32(taken.Addr().(*net.TCPAddr).Port)}
	if err := d.Live().Apply(update(l, busy)); err == nil {
		t.Error("an address that is taken is served")
	}
	check("an address that is taken", map[string]int{m + "listener_create_failure": 1, m + "total_listeners_active": 1})
	// The connection outlives its listener until its drain time is over or it is used.
	d.push(at("l", "127.0.0.2", all))
	check("another address", map[string]int{m + "listener_added": 1, m + "listener_modified": 3, m + "listener_create_success": 2,
		m + "total_listeners_active": 1})
	replace(d, "l", at("k", "127.0.0.1", all))
	check("another name", map[string]int{m + "listener_added": 2, m + "listener_removed": 1, m + "listener_create_success": 3, m + "total_listeners_active": 1})
	c.Close()
	rig.Until(t, "the listeners that are gone have no connection any more", func() error {
		page := fetch(t, "http://"+d.addr("admin")+"/stats?filter=total_listeners_draining|server.total_connections")
		if page != "listener_manager.total_listeners_draining: 0\nserver.total_connections: 0\n" {
			return errors.New(page)
		}
		return nil
	})
	d.BeginDrain(false)
	check("draining", map[string]int{m + "workers_started": 1, m + "listener_stopped": 0, m + "total_listeners_active": 1})
}

// TestListenersThatDrain: a listener that is gone is counted, with its connections,
// until the last of them has ended.
func TestListenersThatDrain(t *testing.T) {
	d := drive(t, func(o *proxy.Options) { o.DrainTime = time.Hour })
	echo := inproc.Echo(t, "ok")
	d.push(edsOf(t, "a"))
	d.push(hostsOf(t, "a", echo.Port))
	d.push(listenerOf(t, "l", [3]string{"all", "", rawOf("a")}))
	c := dialFrom(t, "127.0.0.1", d.addr("l"))
	rig.Until(t, "the connection is counted", func() error { return connections(d, 1) })
	replace(d, "l", listenerOf(t, "k", [3]string{"all", "", rawOf("a")}))
	page := fetch(t, "http://"+d.addr("admin")+"/stats?filter=total_listeners_(active|draining)")
	if want := "listener_manager.total_listeners_active: 1\nlistener_manager.total_listeners_draining: 1\n"; page != want {
		t.Errorf("%s, want %s", page, want)
	}
	if err := connections(d, 1); err != nil {
		t.Error(err)
	}
	c.Close()
	rig.Until(t, "it has ended", func() error { return connections(d, 0) })
}

// replace has a listener instead of another.
func replace(d *driven, gone string, l *listenerv3.Listener) {
	d.t.Helper()
	u := update(l)
	u.Removed = []string{gone}
	if err := d.Live().Apply(u); err != nil {
		d.t.Fatal(err)
	}
}

func connections(d *driven, want int) error {
	if n := d.ActiveConnections(); n != want {
		return fmt.Errorf("%d connections, want %d", n, want)
	}
	return nil
}
