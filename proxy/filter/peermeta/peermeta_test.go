// SPDX-License-Identifier: Apache-2.0

package peermeta

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/proxytest"
)

var (
	_ filter.RequestFilter  = (*Filter)(nil)
	_ filter.FirstResponder = (*Filter)(nil)
	_ http.PeerExchange     = (*Exchanger)(nil)
)

const (
	nodeID = "sidecar~10.0.0.1~web-1-abc.shop~shop.svc.cluster.local"
	owner1 = "kubernetes://apis/apps/v1/namespaces/shop/deployments/web-1"
)

func web() http.Peer {
	return http.Peer{Workload: "web-1", Namespace: "shop", CanonicalService: "web", CanonicalRevision: "v1", App: "web", Version: "v1",
		ClusterID: "c1", Detail: &http.PeerDetail{Name: "web-1-abc", Owner: owner1, Region: "eu", Zone: "eu-1"}}
}

func webExchanger() *Exchanger {
	return NewExchanger(NewNode(web(), map[string]string{"team": "green", "app": "web"}, nodeID))
}

// header is metadata as a stranger would send them.
func header(t testing.TB, fields map[string]any) []byte {
	t.Helper()
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s) // the cache compares octets
	if err != nil {
		t.Fatal(err)
	}
	return []byte(base64.StdEncoding.EncodeToString(b))
}

// TestWords: what is told has the fields and the form that Istio's filters read.
func TestWords(t *testing.T) {
	x := webExchanger()
	w := x.node.say([]string{"team", "missing"})
	if string(w.id) != nodeID {
		t.Errorf("id %q", w.id)
	}
	raw, err := base64.StdEncoding.DecodeString(string(w.header))
	if err != nil {
		t.Fatal(err)
	}
	s := &structpb.Struct{}
	if err := proto.Unmarshal(raw, s); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"NAME": "web-1-abc", "NAMESPACE": "shop", "WORKLOAD_NAME": "web-1", "CLUSTER_ID": "c1", "OWNER": owner1, "REGION": "eu", "AVAILABILITY_ZONE": "eu-1",
		"LABELS": map[string]any{"service.istio.io/canonical-name": "web", "service.istio.io/canonical-revision": "v1", "app": "web", "version": "v1", "team": "green"},
	}
	if got := s.AsMap(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if again := NewNode(web(), map[string]string{"app": "web", "team": "green"}, nodeID).say([]string{"missing", "team"}); string(again.header) != string(w.header) {
		t.Error("the same workload is told in two ways")
	}
	if head := binary.BigEndian.Uint64(w.frame); head>>32 != magic || int(uint32(head)) != len(w.frame)-8 {
		t.Errorf("frame begins with %x", head)
	}
	if got, ok := decodeFrame(w.frame[8:]); !ok || got.Workload != "web-1" || got.Detail.Labels["team"] != "green" {
		t.Errorf("%+v %v", got, ok)
	}
}

// TestWordsAreBounded: labels that make it too long for anybody to read are left out.
func TestWordsAreBounded(t *testing.T) {
	n := NewNode(web(), map[string]string{"x": strings.Repeat("y", maxHeader)}, nodeID)
	w := n.say([]string{"x"})
	if p, ok := decodeHeader(w.header); !ok || p.Workload != "web-1" || p.Detail.Labels["x"] != "" {
		t.Errorf("%+v %v", p, ok)
	}
}

func TestDecodeHeader(t *testing.T) {
	deep := any("x")
	for range 40 {
		deep = map[string]any{"a": deep}
	}
	for _, c := range []struct {
		name   string
		fields map[string]any
		want   http.Peer
	}{
		{"nothing", nil, http.Peer{Detail: &http.PeerDetail{Labels: map[string]string{}}}},
		{"labels by Kubernetes's recommended names first", map[string]any{"LABELS": map[string]any{
			"app": "a", "version": "1", "app.kubernetes.io/name": "b", "app.kubernetes.io/version": "2"}},
			http.Peer{App: "b", Version: "2", Detail: &http.PeerDetail{Labels: map[string]string{
				"app": "a", "version": "1", "app.kubernetes.io/name": "b", "app.kubernetes.io/version": "2"}}}},
		{"values of other types", map[string]any{"WORKLOAD_NAME": 1.0, "NAMESPACE": []any{"x"}, "LABELS": "x"},
			http.Peer{Detail: &http.PeerDetail{Labels: map[string]string{}}}},
		{"what would break a log", map[string]any{"WORKLOAD_NAME": "a\nb", "NAMESPACE": strings.Repeat("x", maxValue+1), "CLUSTER_ID": "c"},
			http.Peer{ClusterID: "c", Detail: &http.PeerDetail{Labels: map[string]string{}}}},
	} {
		got, ok := decodeHeader(header(t, c.fields))
		if !ok || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v %+v", c.name, got, got.Detail)
		}
	}
	for name, value := range map[string][]byte{
		"no base64":      []byte("@@@"),
		"no padding":     []byte("YQ"),
		"no protobuf":    []byte(base64.StdEncoding.EncodeToString([]byte{0xff, 0xff})),
		"too deep":       header(t, map[string]any{"a": deep}),
		"too long":       header(t, map[string]any{"a": strings.Repeat("x", maxHeader)}),
		"spare bits set": []byte("YR=="),
	} {
		if p, ok := decodeHeader(value); ok {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func exchange(request, response map[string]string) *http.Exchange {
	ex := &http.Exchange{Conn: &http.ConnInfo{}, Upstream: &http.HostFacts{}}
	for name, v := range request {
		ex.Req.Fields.Add([]byte(name), []byte(v))
	}
	for name, v := range response {
		ex.Resp.Fields.Add([]byte(name), []byte(v))
	}
	return ex
}

const (
	metadataField = "x-envoy-peer-metadata"
	idField       = "x-envoy-peer-metadata-id"
)

func text(f *http.Fields, id http.HeaderID) string { v, _ := f.Get(id); return string(v) }

// TestInbound: a server's sidecar takes the client's fields out and answers those that
// it sent.
func TestInbound(t *testing.T) {
	x := webExchanger()
	f := New(Config{DownstreamDiscovery: true, DownstreamPropagation: true}, x)
	mine := x.node.say(nil)
	client := string(header(t, map[string]any{"WORKLOAD_NAME": "c-1", "NAMESPACE": "claimed"}))
	for _, c := range []struct {
		name              string
		request           map[string]string
		principal         string
		peer              string // workload and namespace
		metadata, id, bad bool   // are answered; counted
	}{
		{"both", map[string]string{metadataField: client, idField: "c"}, "", "c-1 claimed", true, true, false},
		{"proven namespace", map[string]string{metadataField: client}, "spiffe://td/ns/proven/sa/c", "c-1 proven", true, false, false},
		{"another form of identity", map[string]string{metadataField: client}, "spiffe://td/c", "c-1 claimed", true, false, false},
		{"id alone", map[string]string{idField: "c"}, "", "", false, true, false},
		{"none", nil, "", "", false, false, false},
		{"unreadable", map[string]string{metadataField: "@", idField: "c"}, "", "", true, true, true},
	} {
		ex := exchange(c.request, map[string]string{metadataField: "the application's", idField: "the application's"})
		ex.Conn.PeerPrincipal = c.principal
		before := x.Stats.Unreadable.Value()
		f.OnRequest(ex)
		if ex.Req.Fields.Len() != 0 {
			t.Errorf("%s: the application gets %d fields", c.name, ex.Req.Fields.Len())
		}
		peer := ""
		if p := ex.DownstreamPeer; p != nil {
			peer = p.Workload + " " + p.Namespace
		}
		if peer != c.peer {
			t.Errorf("%s: peer %q, want %q", c.name, peer, c.peer)
		}
		if bad := x.Stats.Unreadable.Value() != before; bad != c.bad {
			t.Errorf("%s: counted as unreadable: %v", c.name, bad)
		}
		f.OnResponse(ex)
		wantMetadata, wantID := "", ""
		if c.metadata {
			wantMetadata = string(mine.header)
		}
		if c.id {
			wantID = nodeID
		}
		if got := text(&ex.Resp.Fields, http.HeaderXEnvoyPeerMetadata); got != wantMetadata {
			t.Errorf("%s: answers %q", c.name, got)
		}
		if got := text(&ex.Resp.Fields, http.HeaderXEnvoyPeerMetadataID); got != wantID {
			t.Errorf("%s: answers %q", c.name, got)
		}
	}
}

// TestOutbound: a client's sidecar speaks in the application's place, and takes the
// host's answer out.
func TestOutbound(t *testing.T) {
	x := webExchanger()
	f := New(Config{UpstreamDiscovery: true, UpstreamPropagation: true, MeshOnly: true}, x)
	host := string(header(t, map[string]any{"WORKLOAD_NAME": "h-1", "NAMESPACE": "claimed"}))
	ex := exchange(map[string]string{metadataField: "forged", idField: "forged"}, map[string]string{metadataField: host, idField: "h"})
	ex.UpstreamTLS = &http.TLSInfo{PeerVerified: true, Peer: &http.Certificate{URIs: []string{"spiffe://td/ns/proven/sa/h"}}}
	f.OnRequest(ex)
	if got := text(&ex.Req.Fields, http.HeaderXEnvoyPeerMetadata); got != string(x.node.say(nil).header) {
		t.Errorf("tells %q", got)
	}
	if got := text(&ex.Req.Fields, http.HeaderXEnvoyPeerMetadataID); got != nodeID {
		t.Errorf("tells %q", got)
	}
	if !ex.MeshOnly || ex.DownstreamPeer != nil {
		t.Errorf("MeshOnly %v, peer %v", ex.MeshOnly, ex.DownstreamPeer)
	}
	f.OnResponse(ex)
	if p := ex.UpstreamPeer; p == nil || p.Workload != "h-1" || p.Namespace != "proven" || ex.Resp.Fields.Len() != 0 {
		t.Errorf("peer %+v, %d fields stay", p, ex.Resp.Fields.Len())
	}
}

// TestNoNode: a proxy that nobody has given a place in a mesh tells nothing, and hears.
func TestNoNode(t *testing.T) {
	x := NewExchanger(NewNode(web(), nil, ""))
	if f := New(Config{UpstreamPropagation: true}, x); f != nil {
		t.Error("there is something to tell")
	}
	f := New(Config{DownstreamDiscovery: true, DownstreamPropagation: true}, x)
	ex := exchange(map[string]string{metadataField: string(header(t, map[string]any{"WORKLOAD_NAME": "c"})), idField: "c"}, nil)
	f.OnRequest(ex)
	f.OnResponse(ex)
	if ex.DownstreamPeer == nil || ex.Resp.Fields.Len() != 0 {
		t.Errorf("peer %v, %d fields", ex.DownstreamPeer, ex.Resp.Fields.Len())
	}
	if frame, ok := x.Begin("p", "p", nil); len(frame) != 0 || !ok {
		t.Errorf("%q %v", frame, ok)
	}
}

// TestRead is the beginning of a raw connection, cut in two at every byte.
func TestRead(t *testing.T) {
	x := webExchanger()
	frame := x.node.say(nil).frame
	stream := append(append([]byte{}, frame...), "data"...)
	for n := range len(stream) + 1 {
		r := x.Read(stream[:n], "spiffe://td/ns/proven/sa/h")
		if n < len(frame) {
			if !r.More || r.Skip != 0 || r.Broken {
				t.Fatalf("%d of %d octets: %+v", n, len(frame), r)
			}
			continue
		}
		if r.More || r.Skip != len(frame) || r.Peer == nil || r.Peer.Workload != "web-1" || r.Peer.Namespace != "proven" {
			t.Fatalf("%d octets: %+v", n, r)
		}
	}
	for _, c := range []struct {
		name, in string
		want     http.PeerRead
	}{
		{"other data", "GET /", http.PeerRead{}},
		{"one octet that differs", "=#\x05", http.PeerRead{}},
		{"too long", "=#\x04g\x00\x01\x00\x00", http.PeerRead{Broken: true}},
		{"a body that is nothing", "=#\x04g\x00\x00\x00\x01\xffdata", http.PeerRead{Skip: 9}},
		{"no body", "=#\x04g\x00\x00\x00\x00", http.PeerRead{Skip: 8}},
	} {
		if got := x.Read([]byte(c.in), ""); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	if x.Stats.NoFrame.Value() != 2 || x.Stats.BadFrame.Value() != 3 {
		t.Errorf("no frame %d, bad %d", x.Stats.NoFrame.Value(), x.Stats.BadFrame.Value())
	}
}

// TestAlike: the pods of one workload have one label set.
func TestAlike(t *testing.T) {
	c := newCache()
	pod := func(name, workload string) *http.Peer {
		return c.find(header(t, map[string]any{"NAME": name, "WORKLOAD_NAME": workload}), "", decodeHeader)
	}
	a, b, other := pod("a", "w"), pod("b", "w"), pod("c", "w2")
	if a == b || a.Alike() != b.Alike() || a.Alike() == other.Alike() || a.Alike().Detail != nil {
		t.Errorf("%p %p %p", a.Alike(), b.Alike(), other.Alike())
	}
	if pod("a", "w") != a {
		t.Error("the same value is decoded twice")
	}
}

// TestCacheBound: however many values come, the cache keeps to its size, and what is
// used stays.
func TestCacheBound(t *testing.T) {
	c := newCache()
	used := header(t, map[string]any{"WORKLOAD_NAME": "used"})
	first := c.find(used, "", decodeHeader)
	misses := 0
	for i := range 20_000 {
		c.find(header(t, map[string]any{"WORKLOAD_NAME": fmt.Sprint(i)}), "", decodeHeader)
		if c.find(used, "", decodeHeader) != first {
			misses++
			first = c.find(used, "", decodeHeader)
		}
	}
	if misses > 0 {
		t.Errorf("a peer in use was forgotten %d times", misses)
	}
	if len(c.workloads) > maxWorkloads {
		t.Errorf("%d workloads are kept", len(c.workloads))
	}
	big := header(t, map[string]any{"WORKLOAD_NAME": "big", "x": strings.Repeat("y", maxKept)})
	if first := c.find(big, "", decodeHeader); first == nil || c.find(big, "", decodeHeader) == first {
		t.Error("a value of any size is kept")
	}
}

func TestCacheConcurrently(t *testing.T) {
	c := newCache()
	var values [][]byte
	for i := range 600 {
		values = append(values, header(t, map[string]any{"WORKLOAD_NAME": fmt.Sprint(i)}))
	}
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 5000 {
				at := (i*7 + g) % len(values)
				if p := c.find(values[at], "", decodeHeader); p.Workload != fmt.Sprint(at) {
					t.Errorf("%d is %s", at, p.Workload)
					return
				}
			}
		})
	}
	all.Wait()
}

// TestAllocations is the bound on the hot path.
func TestAllocations(t *testing.T) {
	x := webExchanger()
	value, id := string(header(t, map[string]any{"WORKLOAD_NAME": "c-1"})), "c"
	in := New(Config{DownstreamDiscovery: true, DownstreamPropagation: true}, x)
	out := New(Config{UpstreamDiscovery: true, UpstreamPropagation: true}, x)
	metadataValue, idValue := []byte(value), []byte(id)
	ex := &http.Exchange{}
	conn, host := &http.ConnInfo{PeerPrincipal: "spiffe://td/ns/proven/sa/c"}, &http.HostFacts{}
	for name, f := range map[string]*Filter{"inbound": in, "outbound": out} {
		proxytest.NoAllocs(t, name, func() {
			ex.Reset()
			ex.Conn, ex.Upstream = conn, host
			for _, fields := range []*http.Fields{&ex.Req.Fields, &ex.Resp.Fields} {
				fields.AddID(http.HeaderXEnvoyPeerMetadata, metadataValue)
				fields.AddID(http.HeaderXEnvoyPeerMetadataID, idValue)
			}
			f.OnRequest(ex)
			f.OnResponse(ex)
		})
	}
}

func BenchmarkRequest(b *testing.B) {
	x := webExchanger()
	f := New(Config{DownstreamDiscovery: true, DownstreamPropagation: true}, x)
	value, id := x.node.say(nil).header, []byte(nodeID)
	ex := &http.Exchange{}
	conn := &http.ConnInfo{PeerPrincipal: "spiffe://td/ns/proven/sa/c"}
	b.ReportAllocs()
	for b.Loop() {
		ex.Reset()
		ex.Conn = conn
		ex.Req.Fields.AddID(http.HeaderXEnvoyPeerMetadata, value)
		ex.Req.Fields.AddID(http.HeaderXEnvoyPeerMetadataID, id)
		f.OnRequest(ex)
		f.OnResponse(ex)
	}
}
