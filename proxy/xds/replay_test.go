// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"pillion/proxy/tls/controlplane"
	"pillion/test/need"
)

// field returns the string in a field of a message, "" if there is none. The
// types of the captures have their names in field 1; clusters' endpoints too.
func field(body []byte, number protowire.Number) (string, error) {
	for len(body) > 0 {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return "", protowire.ParseError(n)
		}
		body = body[n:]
		if num == number && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(body)
			if n < 0 {
				return "", protowire.ParseError(n)
			}
			return string(v), nil
		}
		if n = protowire.ConsumeFieldValue(num, typ, body); n < 0 {
			return "", protowire.ParseError(n)
		}
		body = body[n:]
	}
	return "", nil
}

func nameInBody(typeURL string, body []byte) (string, error) {
	if typeURL == short["NDS"] {
		return "", nil // the only one of its type
	}
	return field(body, 1)
}

// capture is one response of a real istiod: as it was sent, and what the file
// beside it says is in it.
type capture struct {
	kind string // CDS, …
	wire []byte
	// Resources are read from the readable form, so the two check each other.
	names []string
}

func captures(t *testing.T, dir string) []capture {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.pb"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %d files", dir, err, len(files))
	}
	var all []capture
	for _, f := range files {
		c := capture{kind: strings.TrimSuffix(f[strings.LastIndex(f, "-")+1:], ".pb")}
		text, err := os.ReadFile(strings.TrimSuffix(f, "pb") + "json")
		if err != nil {
			t.Fatal(err)
		}
		if c.wire, err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
		type named struct{ Name, ClusterName string }
		var m struct {
			Resources []struct {
				named
				Resource named
			}
		}
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		for _, r := range m.Resources {
			for _, n := range []string{r.Name, r.Resource.Name, r.ClusterName, ""} {
				if n != "" || c.kind == "NDS" {
					c.names = append(c.names, n)
					break
				}
			}
		}
		all = append(all, c)
	}
	return all
}

// TestReplay has a server send what a real istiod sent, and looks whether each
// resource reaches the Sink by its name and octet for octet.
func TestReplay(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(need.Captures(t), "*"))
	if err != nil {
		t.Fatal(err)
	}
	played := 0
	for _, dir := range dirs {
		world := strings.HasSuffix(dir, "-sotw")
		if !world && !strings.HasSuffix(dir, "-delta") {
			continue
		}
		played++
		t.Run(filepath.Base(dir), func(t *testing.T) {
			all := captures(t, dir)
			synctest.Test(t, func(t *testing.T) { replay(t, world, all) })
		})
	}
	if played < 7 {
		t.Errorf("%d captures were played", played)
	}
}

func replay(t *testing.T, world bool, all []capture) {
	r := newRig(t, world, &fakeServer{}, nil, func(_ *rig, o *Options) {
		o.Types = append(o.Types, short["NDS"])
		o.Name = nameInBody
	})
	st := r.stream()
	for _, c := range all {
		if c.kind == "EDS" || c.kind == "RDS" {
			r.client.Want(short[c.kind], c.names)
		}
		synctest.Wait()
		bodies := map[string][]byte{} // as the message itself has them
		if world {
			m := &discoveryv3.DiscoveryResponse{}
			if err := proto.Unmarshal(c.wire, m); err != nil {
				t.Fatal(err)
			}
			for i, res := range m.Resources {
				bodies[c.names[i]] = res.Value
			}
			if err := st.world.Send(m); err != nil {
				t.Fatal(err)
			}
		} else {
			m := &discoveryv3.DeltaDiscoveryResponse{}
			if err := proto.Unmarshal(c.wire, m); err != nil {
				t.Fatal(err)
			}
			for i, res := range m.Resources {
				if res.Name != c.names[i] {
					t.Fatalf("%s: %q is called %q", c.kind, res.Name, c.names[i])
				}
				bodies[res.Name] = res.Resource.Value
			}
			if err := st.delta.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		select {
		case u := <-r.sink.updates:
			if u.TypeURL != short[c.kind] || len(u.Resources) != len(c.names) || len(u.Resources) != len(bodies) || u.Version == "" {
				t.Fatalf("%s: an update of %s with %d resources, not %d", c.kind, u.TypeURL, len(u.Resources), len(c.names))
			}
			for i, res := range u.Resources {
				if res.Name != c.names[i] || !bytes.Equal(res.Body, bodies[res.Name]) {
					t.Errorf("%s: resource %d is %q, not %q, or has changed", c.kind, i, res.Name, c.names[i])
				}
			}
			if whole := c.kind != "EDS" && c.kind != "RDS"; u.Full != (world && whole) {
				t.Errorf("%s: full is %t", c.kind, u.Full)
			}
		default:
			t.Fatalf("%s: nothing came; %s", c.kind, r.log.all(""))
		}
	}
	for _, ty := range r.client.Status().Types {
		if ty.Updates != 1 || ty.Refusals != 0 || ty.Waiting() {
			t.Errorf("%+v", ty)
		}
	}
}

// FuzzResponse feeds octets to the readers of both protocols, and what they
// make of them to a client: each response is answered once, in words that can be
// sent, and no name comes to the Sink twice.
func FuzzResponse(f *testing.F) {
	url := short["CDS"]
	any1 := func(url, body string) *anypb.Any { return &anypb.Any{TypeUrl: url, Value: []byte(body)} }
	for _, m := range []proto.Message{
		&discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: "n", SystemVersionInfo: "v", RemovedResources: []string{"a", "c"}, ControlPlane: &corev3.ControlPlane{Identifier: "x"},
			Resources: []*discoveryv3.Resource{{Name: "a", Resource: any1(url, "1")}, {Name: "a", Resource: any1(url, "2")}, {Name: "b"}, {Name: "d", Ttl: durationpb.New(1)}, nil}},
		&discoveryv3.DiscoveryResponse{TypeUrl: url, Nonce: "n", VersionInfo: "v", Resources: []*anypb.Any{any1(url, "\x0a\x01a"), any1(url, "\x0a\x01a"), any1("x", ""), any1(wrapperType, "\x1a\x01b"), any1(wrapperType, "\xff")}},
	} {
		wire, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, "cluster a: no")
	}
	f.Add([]byte(nil), "\xff\xfe")
	f.Fuzz(func(t *testing.T, wire []byte, refusal string) {
		delta, state := &discoveryv3.DeltaDiscoveryResponse{}, &discoveryv3.DiscoveryResponse{}
		if proto.Unmarshal(wire, delta) == nil {
			feed(t, false, readDelta(delta), len(delta.Resources), refusal)
		}
		if proto.Unmarshal(wire, state) == nil {
			feed(t, true, readWorld(state, nameInBody), len(state.Resources), refusal)
		}
	})
}

func feed(t *testing.T, world bool, r *response, resources int, refusal string) {
	sink := &fakeSink{}
	applied := 0
	sink.apply = func(u *Update) error {
		applied++
		seen := set{}
		for _, n := range u.Removed {
			seen[n] = struct{}{}
		}
		for _, res := range u.Resources {
			if seen.has(res.Name) {
				t.Errorf("%q came twice, or is also gone", res.Name)
			}
			seen[res.Name] = struct{}{}
		}
		if len(u.Resources) > resources || u.Full && len(r.problems.texts) > 0 || u.Full && !world {
			t.Errorf("%d resources of %d, full %t", len(u.Resources), resources, u.Full)
		}
		if refusal != "" {
			return fmt.Errorf("%s", refusal)
		}
		return nil
	}
	c, err := New(Options{Server: controlplane.Server{Address: "a:1"}, Node: func() *Node { return nil }, Types: []string{short["CDS"]}, StateOfTheWorld: world, Name: nameInBody, Sink: sink})
	if err != nil {
		t.Fatal(err)
	}
	c.Want(short["EDS"], []string{"a"})
	c.begin()
	for range 2 {
		c.next()
	}
	asked := c.take(r)
	req, _, ok := c.next()
	if (asked && r.nonce != "") != ok || ok && (req.nonce != r.nonce || req.typeURL != r.update.TypeURL) || !asked && applied > 0 || applied > 1 {
		t.Fatalf("asked for %t, applied %d times, answered %t with %+v", asked, applied, ok, req)
	}
	if ok && (req.refusal == "") != (len(r.problems.texts) == 0 && (refusal == "" || applied == 0)) {
		t.Errorf("refused with %q, of %q and %q", req.refusal, r.problems.texts, refusal)
	}
	if _, err := proto.Marshal(&discoveryv3.DeltaDiscoveryRequest{ErrorDetail: &status.Status{Message: req.refusal}}); err != nil || len(req.refusal) > maxReason {
		t.Errorf("%d octets that can't be sent: %v", len(req.refusal), err)
	}
	if again, _, more := c.next(); more {
		t.Errorf("there is more to say: %+v", again)
	}
}
