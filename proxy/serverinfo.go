// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strconv"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"pillion/proxy/accesslog"
	"pillion/proxy/admin"
)

// info describes the process to /server_info.
func (s *Server) info() admin.Info {
	level, components := s.o.Levels.Describe()
	o := &adminv3.CommandLineOptions{
		Concurrency: uint32(runtime.GOMAXPROCS(0)), LogLevel: level, ComponentLogLevel: components,
		LocalAddressIpVersion: ipVersion(s.o.AdminAddr), Mode: adminv3.CommandLineOptions_Serve,
		DrainTime: durationpb.New(s.o.DrainTime), DrainStrategy: adminv3.CommandLineOptions_Immediate,
		FileFlushInterval: durationpb.New(accesslog.FlushInterval), ParentShutdownTime: &durationpb.Duration{},
		DisableHotRestart: true, AllowUnknownStaticFields: !s.o.Strict, IgnoreUnknownDynamicFields: !s.o.Strict,
	}
	return admin.Info{Version: buildOf().version(s.o.Version), Started: s.started, Node: s.node, Options: o}
}

// ipVersion is that of an address, HOST:PORT.
func ipVersion(addr string) adminv3.CommandLineOptions_IpVersion {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return adminv3.CommandLineOptions_v4
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return adminv3.CommandLineOptions_v6
	}
	return adminv3.CommandLineOptions_v4
}

// build is what the program was made of.
type build struct {
	revision string // the commit; empty if that isn't known
	modified bool
}

func buildOf() (b build) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.revision = s.Value
		case "vcs.modified":
			b.modified = s.Value == "true"
		}
	}
	return b
}

// version is in Envoy's form, whose parts tools take out: commit, number, state of
// the tree, kind of build, library of TLS.
func (b build) version(number string) string {
	state := "Clean"
	if b.modified {
		state = "Modified"
	}
	return cmp.Or(b.revision, "unknown") + "/" + cmp.Or(number, "unknown") + "/" + state + "/RELEASE/" + runtime.Version()
}

// number is server.version: the first digits of the commit, as in Envoy.
func (b build) number() uint64 {
	n, err := strconv.ParseUint(b.revision[:min(len(b.revision), 6)], 16, 64)
	if err != nil {
		return 0 // it isn't known
	}
	return n
}
