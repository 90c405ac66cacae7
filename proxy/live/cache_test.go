// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"pillion/proxy/xds"
)

func cached(dir, node string) func(*Options) {
	return func(o *Options) { o.Cache, o.Node = dir, node }
}

// kept runs a Sink until it has written its cache, and returns the folder and what was
// served.
func kept(t *testing.T) (dir, hosts string) {
	dir = t.TempDir()
	r := newRig(t, cached(dir, "me"))
	r.push(edsCluster("a"), edsCluster("gone"), staticCluster("b", "10.0.0.2:80"))
	r.push(assignment("a", "10.0.0.1:80"), assignment("gone", "10.0.0.3:80"))
	r.push(httpListener("l", "10.0.0.9:80", "80"), httpListener("last", "10.0.0.9:81", "80"))
	r.push(routesTo("80", "a=a", "b=b"))
	pass(6 * time.Second)
	if n := r.cache.written.Value(); n != 1 {
		t.Fatalf("the cache was written %d times", n)
	}
	r.push(routesTo("80", "a=a", "b=b")) // nothing new
	pass(time.Minute)
	if n := r.cache.written.Value(); n != 1 {
		t.Errorf("the cache was written %d times, without a change", n)
	}
	return dir, r.hosts()
}

// TestCache holds that the last good configuration is served until the server answers,
// and that then what is gone goes.
func TestCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, hosts := kept(t)
		info, err := os.Stat(filepath.Join(dir, cacheFile))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", info.Mode(), err)
		}
		r := newRig(t, cached(dir, "me"))
		if !r.LoadCache() {
			t.Fatal("it has not loaded")
		}
		if got := r.hosts(); got != hosts {
			t.Errorf("clusters %s, not %s", got, hosts)
		}
		if got := r.done(); !strings.HasSuffix(got, "serve l, serve last") && got != "serve l, serve last" {
			t.Errorf("listeners: %s", got)
		}
		if w := r.WaitingFor(); len(w) != 1 {
			t.Errorf("ready at once: the server may have newer policies: %q", w)
		}
		pass(6 * time.Second)
		if w := r.WaitingFor(); len(w) != 0 {
			t.Errorf("not ready: %q", w)
		}
		if p := strings.Join(r.Problems(), ";"); !strings.Contains(p, "is served from disk") {
			t.Errorf("problems: %q", p)
		}
		if have := r.Have(ClusterType); len(have) != 3 {
			t.Errorf("the server is told of %v", have)
		}
		r.wants(RouteType, "80")
		// The server's first answer is all there is.
		r.push(edsCluster("a"), staticCluster("b", "10.0.0.2:80"))
		r.push(httpListener("l", "10.0.0.9:80", "80"))
		if got := r.done(); got != "end last" {
			t.Errorf("listeners: %s", got)
		}
		if got := r.hosts(); got != "a=10.0.0.1:80 b=10.0.0.2:80" {
			t.Errorf("clusters: %s", got)
		}
		if p := r.Problems(); len(p) != 0 {
			t.Errorf("problems: %q", p)
		}
		r.push(staticCluster("c", "10.0.0.4:80")) // the second one isn't
		if got := r.hosts(); got != "a=10.0.0.1:80 b=10.0.0.2:80 c=10.0.0.4:80" {
			t.Errorf("clusters: %s", got)
		}
	})
}

// TestCacheInPart holds that what the cache has only in part is served and never makes the
// proxy ready: a listener that isn't understood any more may be missed.
func TestCacheInPart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		good, err := proto.Marshal(staticCluster("a", "10.0.0.1:80"))
		if err != nil {
			t.Fatal(err)
		}
		if err := writeRecords(dir, "me", []record{{ClusterType, "a", "", good}, {ListenerType, "l", "", []byte("no listener")}}); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, cached(dir, "me"))
		if !r.LoadCache() || r.hosts() != "a=10.0.0.1:80" {
			t.Fatalf("clusters %s", r.hosts())
		}
		pass(time.Minute)
		if w := r.WaitingFor(); len(w) != 1 {
			t.Errorf("it is ready: %q", w)
		}
		r.push(staticCluster("a", "10.0.0.1:80"))
		r.push(httpListener("l", "10.0.0.9:80", "80"))
		r.push(routesTo("80", "a=a"))
		if w := r.WaitingFor(); len(w) != 0 {
			t.Errorf("the server has said all: %q", w)
		}
	})
}

// TestCacheLacksSecrets holds that a listener whose certificate is the control plane's to send
// keeps a proxy that has nothing but its cache from being ready.
func TestCacheLacksSecrets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		var list []record
		for _, u := range []*xds.Update{updateOf(staticCluster("a", "10.0.0.1:80")), updateOf(tlsListener("l", "10.0.0.9:443", "kubernetes://cert")), updateOf(routesTo("80", "a=a"))} {
			list = append(list, record{u.TypeURL, u.Resources[0].Name, "", u.Resources[0].Body})
		}
		if err := writeRecords(dir, "me", list); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, cached(dir, "me"))
		if !r.LoadCache() {
			t.Fatal("it has not loaded")
		}
		pass(time.Minute)
		if got := r.done(); got != "serve l" {
			t.Errorf("listeners: %s", got)
		}
		if w := strings.Join(r.WaitingFor(), "; "); !strings.Contains(w, "secret kubernetes://cert") {
			t.Errorf("waiting for %q", w)
		}
	})
}

// TestBadCache holds that a file that can't be right is not used, and harms nothing.
func TestBadCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, _ := kept(t)
		path := filepath.Join(dir, cacheFile)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(good)
		flipped[len(flipped)/2] ^= 1
		for name, data := range map[string][]byte{"empty": {}, "torn": good[:len(good)/2], "flipped": flipped, "other": []byte("hello"),
			"magic": []byte(cacheMagic)} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			r := newRig(t, cached(dir, "me"))
			if r.LoadCache() || r.hosts() != "" || len(r.WaitingFor()) != 1 {
				t.Errorf("%s: it was used", name)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		if newRig(t, cached(dir, "another")).LoadCache() {
			t.Error("the file of another node was used")
		}
		if newRig(t, cached(t.TempDir(), "me")).LoadCache() {
			t.Error("it has loaded what isn't there")
		}
	})
}

// TestCacheHasNoKeys holds that no private key reaches the disk.
func TestCacheHasNoKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		r := newRig(t, cached(dir, "me"))
		r.push(staticCluster("a", "10.0.0.1:80"))
		r.push(tlsListener("l", "10.0.0.9:443", "kubernetes://cert"))
		r.wants(SecretType, "kubernetes://cert")
		r.push(routesTo("80", "a=a"))
		if got := r.done(); got != "" {
			t.Errorf("before the secret: %s", got)
		}
		r.push(testSecret(t, "kubernetes://cert"))
		if got := r.done(); got != "serve l" {
			t.Errorf("with the secret: %s", got)
		}
		pass(time.Minute)
		data, err := os.ReadFile(filepath.Join(dir, cacheFile))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("PRIVATE KEY")) || bytes.Contains(data, []byte("CERTIFICATE")) {
			t.Error("the secret is on the disk")
		}
		for _, st := range r.Status() {
			for _, res := range st.Resources {
				if st.TypeURL == SecretType && (res.Active == nil || res.Active.Body != nil) {
					t.Errorf("state of the secret: %+v", res)
				}
			}
		}
	})
}

// TestForeignSecret holds that the workload's own certificate isn't the control
// plane's to replace.
func TestForeignSecret(t *testing.T) {
	r := newRig(t)
	if why := r.refused(testSecret(t, "default")); why != "secret default: name: it was not asked for" {
		t.Errorf("refused: %s", why)
	}
	bad := testSecret(t, "kubernetes://x")
	bad.GetTlsCertificate().PrivateKey = nil
	if why := r.refused(bad); !strings.HasPrefix(why, "secret kubernetes://x: ") {
		t.Errorf("refused: %s", why)
	}
}

// FuzzCache holds that whatever is on the disk is read or refused.
func FuzzCache(f *testing.F) {
	dir := f.TempDir()
	if err := writeRecords(dir, "me", []record{{ClusterType, "a", "1", []byte("body")}}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, cacheFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-40])
	f.Fuzz(func(t *testing.T, data []byte) {
		_, list, err := parseCache(data, "me")
		if err == nil && len(list) > len(data) {
			t.Errorf("%d records of %d octets", len(list), len(data))
		}
		for rest := data; len(rest) > 0 && err != nil; {
			var bad error
			if _, rest, bad = parseRecord(rest); bad != nil {
				break
			}
		}
	})
}

// FuzzApply holds that no response panics.
func FuzzApply(f *testing.F) {
	types := []string{ClusterType, EndpointType, ListenerType, RouteType, SecretType, NameTableType}
	for i, m := range []proto.Message{edsCluster("a"), assignment("a", "10.0.0.1:80"), httpListener("a", "10.0.0.9:80", "a"), routesTo("a", "a=a"),
		&tlsv3.Secret{Name: "a"}} {
		u := updateOf(m)
		f.Add(uint8(i), u.Resources[0].Body)
	}
	f.Fuzz(func(t *testing.T, typ uint8, body []byte) {
		r := newRig(t)
		r.push(edsCluster("a"))
		r.push(httpListener("a", "10.0.0.9:80", "a"))
		_ = r.Apply(&xds.Update{TypeURL: types[int(typ)%len(types)], Resources: []xds.Resource{{Name: "a", Body: body}}})
		_ = r.state()
		_, _ = r.NameTable()
	})
}
