// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// checkSupport reports what of a resource this build doesn't act on, wherever that can
// be seen from the resource by itself. Whether the resource is valid was decided when
// it was read.
func checkSupport(obj *source.Object, rep *report) {
	switch spec := obj.Spec.(type) {
	case *networking.VirtualService:
		checkVirtualService(obj, spec, rep)
	case *networking.Sidecar:
		checkSidecar(obj, spec, rep)
	}
}

func checkVirtualService(obj *source.Object, v *networking.VirtualService, rep *report) {
	for i, r := range v.Http {
		for j, m := range r.Match {
			for _, set := range [...]struct {
				name    string
				headers map[string]*networking.StringMatch
			}{{"headers", m.Headers}, {"withoutHeaders", m.WithoutHeaders}} {
				for _, name := range sortedKeys(set.headers) {
					if strings.HasPrefix(strings.ToLower(name), "@request.auth.claims") {
						// As a header it would match nothing, or everything.
						rep.errorf(obj, joinField(fmt.Sprintf("spec.http[%d].match[%d].%s", i, j, set.name), name),
							"matching claims of a JWT is not supported yet by this build; remove the match")
					}
				}
			}
		}
	}
}

// checkSidecar tells of inbound settings, and of addresses for egress that are not
// bound: clients of HTTP come to the http listener, and capture would have to bring
// those of other addresses.
func checkSidecar(obj *source.Object, s *networking.Sidecar, rep *report) {
	for i, e := range s.Egress {
		field := fmt.Sprintf("spec.egress[%d].bind", i)
		switch {
		case strings.HasPrefix(e.Bind, unixPrefix):
			rep.unsupportedf(obj, field, "nothing listens on a Unix socket, so the entry has no effect")
		case e.Bind == "" || egressBind(e).IsValid():
		case parseProtocol(e.GetPort().GetProtocol()).routable():
			rep.unsupportedf(obj, field, "its hosts are served by the http listener")
		default:
			rep.unsupportedf(obj, field, "only addresses in 127.0.0.0/8, ::1 and 0.0.0.0 are bound without traffic capture")
		}
	}
}
