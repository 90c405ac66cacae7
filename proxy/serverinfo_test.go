// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy/admin"
)

func TestServerInfo(t *testing.T) {
	levels := admin.NewLevels(admin.LevelCritical)
	levels.Set("misc", admin.LevelOff)
	levels.Set(admin.LoggerConfig, admin.LevelTrace)
	s, err := New(Options{AdminAddr: "[::1]:0", DrainTime: time.Minute, Version: "1.2.3", Levels: levels,
		Discovery: &Discovery{Address: "unix:/nobody", Plaintext: true, Node: &corev3.Node{Id: "sidecar~a"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stopAll)
	i := s.info()
	o := i.Options
	if o.GetLogLevel() != "critical" || o.GetComponentLogLevel() != "config:trace,misc:off" || o.GetConcurrency() < 1 ||
		o.GetDrainTime().AsDuration() != time.Minute || o.GetLocalAddressIpVersion() != adminv3.CommandLineOptions_v6 {
		t.Errorf("options %v", o)
	}
	if parts := strings.Split(i.Version, "/"); len(parts) != 5 || parts[1] != "1.2.3" || i.Node().GetId() != "sidecar~a" {
		t.Errorf("version %s, node %v", i.Version, i.Node())
	}
}

func TestBuild(t *testing.T) {
	for b, want := range map[build]struct {
		version string
		number  uint64
	}{
		{}: {"unknown/1/Clean/RELEASE/", 0},
		{revision: "9e5580933739", modified: true}: {"9e5580933739/1/Modified/RELEASE/", 10376576}, // Envoy's own number of this commit
		{revision: "9e"}: {"9e/1/Clean/RELEASE/", 0x9e},
	} {
		if got := b.version("1"); !strings.HasPrefix(got, want.version) || b.number() != want.number {
			t.Errorf("%+v: %s, %d", b, got, b.number())
		}
	}
	for addr, want := range map[string]adminv3.CommandLineOptions_IpVersion{
		"127.0.0.1:0": adminv3.CommandLineOptions_v4, "[::1]:0": adminv3.CommandLineOptions_v6, "localhost:1": adminv3.CommandLineOptions_v4, "/socket": adminv3.CommandLineOptions_v4,
	} {
		if got := ipVersion(addr); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}
