// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy"
	"pillion/proxy/live"
	"pillion/proxy/proxytest/inproc"
	"pillion/proxy/stats"
)

// adsServer is a control plane that sends what it has to whoever asks, as istiod does: all of
// it, whatever the client has already.
type adsServer struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	mu      sync.Mutex
	have    map[string]map[string]*anypb.Any // by type and name; guarded by mu
	nacks   []string                         // guarded by mu
	asked   []string                         // types, in the order of their first requests; guarded by mu
	changed chan struct{}                    // closed at each change; guarded by mu
	streams int                              // guarded by mu
	end     chan struct{}                    // closed to end the streams; guarded by mu
}

func (s *adsServer) set(list ...proto.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := update(list...)
	if s.have[u.TypeURL] == nil {
		s.have[u.TypeURL] = map[string]*anypb.Any{}
	}
	for _, r := range u.Resources {
		s.have[u.TypeURL][r.Name] = &anypb.Any{TypeUrl: u.TypeURL, Value: r.Body}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// DeltaAggregatedResources implements the service.
func (s *adsServer) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	s.mu.Lock()
	s.streams++
	end, changed := s.end, s.changed
	s.mu.Unlock()
	asks := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() {
		defer close(asks)
		for {
			q, err := st.Recv()
			if err != nil {
				return
			}
			asks <- q
		}
	}()
	names := map[string][]string{} // that are asked for
	var order []string
	for {
		select {
		case <-end:
			return nil
		case <-st.Context().Done():
			return nil
		case q, ok := <-asks:
			if !ok {
				return nil
			}
			typ := q.GetTypeUrl()
			if q.GetErrorDetail() != nil {
				s.mu.Lock()
				s.nacks = append(s.nacks, q.GetErrorDetail().GetMessage())
				s.mu.Unlock()
			}
			if q.GetResponseNonce() != "" {
				continue // an acknowledgement changes no subscription
			}
			if _, known := names[typ]; !known {
				order = append(order, typ)
				s.mu.Lock()
				s.asked = append(s.asked, typ)
				s.mu.Unlock()
			}
			names[typ] = append(names[typ], q.GetResourceNamesSubscribe()...)
			names[typ] = slices.DeleteFunc(names[typ], func(n string) bool { return slices.Contains(q.GetResourceNamesUnsubscribe(), n) })
			if err := s.send(st, typ, names[typ]); err != nil {
				return err
			}
		case <-changed:
			s.mu.Lock()
			changed = s.changed
			s.mu.Unlock()
			for _, typ := range order {
				if err := s.send(st, typ, names[typ]); err != nil {
					return err
				}
			}
		}
	}
}

// send sends all that there is of a type, or of what is asked for by name.
func (s *adsServer) send(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer, typ string, names []string) error {
	s.mu.Lock()
	out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typ, Nonce: "n", SystemVersionInfo: "v"}
	for name, a := range s.have[typ] {
		if typ == live.ClusterType || typ == live.ListenerType || slices.Contains(names, name) {
			out.Resources = append(out.Resources, &discoveryv3.Resource{Name: name, Resource: a})
		}
	}
	s.mu.Unlock()
	return st.Send(out)
}

// serveADS runs a control plane that has nothing yet, and returns its address.
func serveADS(t *testing.T) (*adsServer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ads")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ads := &adsServer{have: map[string]map[string]*anypb.Any{}, changed: make(chan struct{}), end: make(chan struct{})}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, ads)
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	return ads, "unix:" + path
}

// TestTypesAskedFor: Istio's table of names is asked for where look-ups are captured
// alone, since istiod makes it anew for each push.
func TestTypesAskedFor(t *testing.T) {
	for _, names := range []bool{false, true} {
		ads, address := serveADS(t)
		ads.set(edsOf(t, "a"))
		ads.set(hostsOf(t, "a", 1))
		d := drive(t, func(o *proxy.Options) { o.Discovery.Address, o.Discovery.NameTable = address, names })
		want := []string{live.ClusterType, live.ListenerType}
		if names {
			want = append(want, live.NameTableType)
		}
		want = append(want, live.EndpointType) // the cluster's; all others were asked for before
		inproc.WaitFor(t, "the first configuration is served", func() bool { return d.State() == stats.StateLive })
		ads.mu.Lock()
		if !slices.Equal(ads.asked, want) {
			t.Errorf("with names: %v: asked for %q, want %q", names, ads.asked, want)
		}
		ads.mu.Unlock()
	}
}

// TestDrivenOverGRPC plays a control plane over the wire: a first configuration, a change
// of which a part is refused, and a stream that ends.
func TestDrivenOverGRPC(t *testing.T) {
	ads, address := serveADS(t)
	echo := inproc.Echo(t, "ok")
	ads.set(edsOf(t, "a"))
	ads.set(hostsOf(t, "a", echo.Port))
	ads.set(listenerOf(t, "l", [3]string{"chain", "", managerOf("80")}))
	ads.set(routesOf(t, "80", "x=a"))

	cache := t.TempDir()
	d := drive(t, func(o *proxy.Options) { o.Discovery.Address, o.Discovery.Cache = address, cache })
	inproc.WaitFor(t, "the first configuration is served", func() bool { return d.State() == stats.StateLive })
	c := dialFrom(t, "127.0.0.1", d.addr("l"))
	check := func(host, want string) {
		t.Helper()
		if status, _, keep, err := c.get(host); status != want || !keep || err != nil {
			t.Errorf("%s: %s, goes on: %v, %v", host, status, keep, err)
		}
	}
	check("x", "200")
	bad := edsOf(t, "a")
	bad.LrsServer = bad.GetEdsClusterConfig().GetEdsConfig()
	ads.set(bad, edsOf(t, "b"))
	ads.set(hostsOf(t, "b", echo.Port))
	ads.set(routesOf(t, "80", "x=a", "y=b"))
	inproc.WaitFor(t, "the good part is served", func() bool {
		s, _, _, err := c.get("y")
		return s == "200" || err != nil
	})
	check("x", "200")
	inproc.WaitFor(t, "the server is told what was refused", func() bool {
		ads.mu.Lock()
		defer ads.mu.Unlock()
		return len(ads.nacks) > 0
	})
	ads.mu.Lock()
	if !strings.HasPrefix(ads.nacks[0], "cluster a: lrs_server: is not supported") {
		t.Errorf("the server was told %q", ads.nacks)
	}
	close(ads.end)
	ads.end = make(chan struct{})
	ads.mu.Unlock()
	inproc.WaitFor(t, "there is another stream", func() bool {
		ads.mu.Lock()
		defer ads.mu.Unlock()
		return ads.streams > 1
	})
	ads.set(edsOf(t, "a"))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("problems: %q, control plane: %q", d.Live().Problems(), d.Health().ControlPlane)
		}
	})
	inproc.WaitFor(t, "nothing is refused any more", func() bool { return len(d.Live().Problems()) == 0 })
	check("x", "200")
}

// TestServesFromDisk holds that a proxy whose control plane is out of reach serves what it
// had served before.
func TestServesFromDisk(t *testing.T) {
	cache := t.TempDir()
	echo := inproc.Echo(t, "ok")
	with := func(o *proxy.Options) { o.Discovery.Cache, o.Discovery.QuietFor, o.Discovery.ReadyAfter = cache, 1, 1 }
	d := drive(t, with)
	d.push(edsOf(t, "a"))
	d.push(hostsOf(t, "a", echo.Port))
	d.push(listenerOf(t, "l", [3]string{"chain", "", managerOf("80")}))
	d.push(routesOf(t, "80", "x=a"))
	inproc.WaitFor(t, "the configuration is on disk", func() bool { // all of it
		b, err := os.ReadFile(filepath.Join(cache, "last-good-configuration"))
		for _, typ := range []string{live.ClusterType, live.EndpointType, live.ListenerType, live.RouteType} {
			if err != nil || !bytes.Contains(b, []byte(typ)) {
				return false
			}
		}
		return true
	})
	again := drive(t, with)
	inproc.WaitFor(t, "it is ready", func() bool { return again.State() == stats.StateLive })
	if status, _, _, err := dialFrom(t, "127.0.0.1", again.addr("l")).get("x"); status != "200" || err != nil {
		t.Errorf("%s %v", status, err)
	}
	page := fetch(t, "http://"+again.addr("admin")+"/stats?filter=cache_served")
	if !strings.Contains(page, "pillion.config.cache_served: 1") {
		t.Errorf("the metric: %q", page)
	}
}
