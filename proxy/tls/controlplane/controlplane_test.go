// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
)

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		s    Server
		want string // in the error; "" is none
	}{
		{Server{Address: "istiod.istio-system.svc:15012"}, ""},
		{Server{Address: "[::1]:15010", Plaintext: true, ClusterID: "lab", Headers: map[string]string{"X-Tenant": "blue", "x-raw-bin": "\x00"}}, ""},
		{Server{Address: "unix:/run/xds", Plaintext: true}, ""},
		{Server{Address: "unix:///run/xds", ServerName: "istiod"}, ""},
		{Server{Address: "unix:/run/xds"}, "needs a name"},
		{Server{Address: "unix:"}, "names no socket"},
		{Server{}, "neither HOST:PORT nor unix:PATH"},
		{Server{Address: "istiod"}, "neither HOST:PORT nor unix:PATH"},
		{Server{Address: ":15012"}, "neither HOST:PORT nor unix:PATH"},
		{Server{Address: "a:1", Headers: map[string]string{"grpc-timeout": "1S"}}, `"grpc-timeout" can't be sent`},
		{Server{Address: "a:1", Headers: map[string]string{"a b": "x"}}, `"a b" can't be sent`},
		{Server{Address: "a:1", Headers: map[string]string{"": "x"}}, `"" can't be sent`},
		{Server{Address: "a:1", Headers: map[string]string{"x": "a\nb"}}, "isn't printable"},
		{Server{Address: "a:1", ClusterID: "ä"}, "isn't printable"},
	} {
		err := tc.s.Check()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, not %q", tc.s, err, tc.want)
		}
	}
}

func TestName(t *testing.T) {
	for want, s := range map[string]Server{
		"istiod.istio-system.svc": {Address: "istiod.istio-system.svc:15012"},
		"::1":                     {Address: "[::1]:15012"},
		"other":                   {Address: "localhost:15012", ServerName: "other"},
		"":                        {Address: "unix:/run/xds", Plaintext: true},
	} {
		if got := s.Name(); got != want {
			t.Errorf("%+v: %q, not %q", s, got, want)
		}
	}
}

// TestRoots: what can't be trusted is told before a connection is made.
func TestRoots(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(empty, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{empty: "holds no certificate", empty + "-not-there": "no such file"} {
		s := Server{Address: "istiod:15012", RootFile: file}
		if _, err := s.Connect(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
	s := Server{Address: "istiod:15012"}
	conn, err := s.Connect()
	if err != nil {
		t.Fatalf("the machine's own anchors: %v", err)
	}
	_ = conn.Close()
}

// TestMetadata: the token is what its file holds at the time of the call.
func TestMetadata(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	s := Server{Address: "a:1", TokenFile: path, ClusterID: "lab", Headers: map[string]string{"X-Tenant": "blue"}}
	for _, tc := range []struct {
		write string // to the file before; "" removes it
		want  string
		fails bool
	}{{"", "", false}, {"  one\n", "Bearer one", false}, {"two", "Bearer two", false}, {"a b", "", true}, {" \n", "", false}, {"", "", false}} {
		if tc.write == "" {
			_ = os.Remove(path) // it may not be there
		} else if err := os.WriteFile(path, []byte(tc.write), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, token, err := s.Metadata(t.Context())
		if tc.fails != (err != nil) {
			t.Errorf("%q: %v", tc.write, err)
			continue
		} else if err != nil {
			continue
		}
		md, _ := metadata.FromOutgoingContext(ctx)
		if got := strings.Join(md.Get("authorization"), ","); got != tc.want || token != (tc.want != "") {
			t.Errorf("%q: %q, %t", tc.write, got, token)
		}
		if got := md.Get("clusterid"); len(got) != 1 || got[0] != "lab" || len(md.Get("x-tenant")) != 1 {
			t.Errorf("metadata %v", md)
		}
	}
	s.TokenFile = t.TempDir()
	if _, _, err := s.Metadata(t.Context()); err == nil {
		t.Error("a token that can't be read was left out")
	}
}

func FuzzToken(f *testing.F) {
	f.Add([]byte("eyJ.x.y\n"))
	f.Add([]byte(" a b "))
	path := filepath.Join(f.TempDir(), "token")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readToken(path)
		if err == nil && strings.ContainsAny(got, " \r\n\t\x00") {
			t.Errorf("%q was taken from %q", got, text)
		}
	})
}
