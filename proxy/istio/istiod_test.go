// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// captured is what a real istiod sent to a sidecar: the route configurations of three
// ports, the clusters and their endpoints, and the filter chains of ports without HTTP. Left out are what concerns mutual TLS and
// what was made of Gateway API objects and pods.
type captured struct {
	Routes []struct {
		Name         string
		VirtualHosts []struct {
			Name    string
			Domains []string
			Routes  []any
		}
	}
	Clusters  []map[string]any
	Endpoints []map[string]any
	Listeners []struct { // that carry no HTTP
		Name         string
		FilterChains []any
	}
}

// TestLikeIstiod compares the translation with what a real istiod made of the same
// objects: field by field, and for domains with the port that a standalone proxy adds.
func TestLikeIstiod(t *testing.T) {
	var want captured
	text, err := os.ReadFile("testdata/istiod/captured.json")
	if err != nil {
		t.Fatal(err)
	}
	// For port 9081 istiod knows only services that have this port. So it takes the
	// mirror, which names no port, to be of port 9081, where reviews has nothing.
	text = bytes.ReplaceAll(text, []byte("outbound|9081|v2|reviews"), []byte("outbound|9080|v2|reviews"))
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	r, problems := Translate(loadFile(t, "istiod/mesh.yaml"), Options{
		HTTPAddr: "127.0.0.1:15080", ClusterID: "lab", AccessLogFile: "/dev/stdout",
		Listen: []string{"ratings:9082=127.0.0.1:9082", "api.example.com:443=127.0.0.1:443"},
	})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	t.Run("routes", func(t *testing.T) { compareRoutes(t, r, &want) })
	t.Run("clusters", func(t *testing.T) { compareByName(t, "name", want.Clusters, messages(r.Clusters)) })
	t.Run("endpoints", func(t *testing.T) { compareByName(t, "clusterName", want.Endpoints, messages(r.Endpoints)) })
	t.Run("listeners", func(t *testing.T) { compareChains(t, r, &want) })
}

// compareChains compares by port: istiod's listeners are at the service's address.
func compareChains(t *testing.T, r *Resources, want *captured) {
	for _, w := range want.Listeners {
		_, port, _ := strings.Cut(w.Name, "_")
		i := slices.IndexFunc(r.Listeners, func(l *listenerv3.Listener) bool { return l.Name == "127.0.0.1_"+port })
		if i < 0 {
			t.Errorf("nothing listens like %s", w.Name)
			continue
		}
		var got []any
		for _, c := range r.Listeners[i].FilterChains {
			got = append(got, generic(t, c))
		}
		same(t, w.Name, w.FilterChains, got)
	}
	if len(want.Listeners) == 0 {
		t.Error("nothing was compared")
	}
}

func compareRoutes(t *testing.T, r *Resources, want *captured) {
	hosts := make(map[string]int)
	for i, vh := range r.Routes[0].VirtualHosts {
		hosts[vh.Name] = i
	}
	compared := 0
	for _, rc := range want.Routes {
		port, err := strconv.ParseUint(rc.Name, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		for _, vh := range rc.VirtualHosts {
			if vh.Name == "ratings.default.svc.cluster.local:80" || vh.Name == "reviews.default.svc.cluster.local:80" {
				continue // istiod has these at port 80 whatever ports the services have
			}
			i, ok := hosts[vh.Name]
			if !ok {
				t.Errorf("no virtual host %s", vh.Name)
				continue
			}
			have := r.Routes[0].VirtualHosts[i]
			for _, d := range vh.Domains {
				if d != "*" {
					d = hostPort(d, uint32(port))
				}
				if !slices.Contains(have.Domains, d) {
					t.Errorf("%s has no domain %s", vh.Name, d)
				}
			}
			var got []any
			for _, route := range have.Routes {
				got = append(got, generic(t, route))
			}
			same(t, vh.Name, vh.Routes, got)
			compared++
		}
	}
	if compared < 8 {
		t.Errorf("only %d virtual hosts were compared", compared)
	}
}

func compareByName(t *testing.T, key string, want []map[string]any, have []proto.Message) {
	got := make(map[string]any)
	for _, m := range have {
		v := generic(t, m).(map[string]any)
		got[v[key].(string)] = v
	}
	for _, w := range want {
		name := w[key].(string)
		if got[name] == nil {
			t.Errorf("there is no %s", name)
			continue
		}
		same(t, name, w, got[name])
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s is not istiod's", name)
	}
}

// generic is a message as JSON knows it.
func generic(t *testing.T, m proto.Message) any {
	t.Helper()
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if reflect.DeepEqual(want, got) {
		return
	}
	w, _ := json.MarshalIndent(want, "", " ")
	g, _ := json.MarshalIndent(got, "", " ")
	t.Errorf("%s differs from istiod's:\n%s", what, firstDifference(w, g))
}
