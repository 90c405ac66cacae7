// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"regexp"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// released is a version by numbers, with what may follow it: -rc1, -3-g5d37c06.
var released = regexp.MustCompile(`^v?([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})(-.*)?$`)

// buildVersion is the version in the form in which Envoy tells its own:
// `istioctl proxy-config bootstrap -o short` prints numbers and label, and
// shows any other form as 0.0.0. A build between releases has no numbers.
func buildVersion(version string) *corev3.BuildVersion {
	b := &corev3.BuildVersion{Version: &typev3.SemanticVersion{}}
	label := "pillion-" + version
	if m := released.FindStringSubmatch(version); m != nil {
		number := func(s string) uint32 {
			n, _ := strconv.ParseUint(s, 10, 32) // nine digits
			return uint32(n)
		}
		b.Version = &typev3.SemanticVersion{MajorNumber: number(m[1]), MinorNumber: number(m[2]), Patch: number(m[3])}
		label = "pillion" + m[4]
	}
	b.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"build.label": structpb.NewStringValue(label)}}
	return b
}
