// SPDX-License-Identifier: Apache-2.0

package live

import "google.golang.org/protobuf/encoding/protowire"

// maxScanDepth bounds the nesting of messages that is looked into.
const maxScanDepth = 40

// findNames adds to found those of the names that stand as a whole string anywhere in a
// serialized message, whatever its type: the message of a filter may name a cluster,
// and there is no list of all that do. A string that happens to be the same only keeps a
// cluster for longer.
func findNames(body []byte, names, found map[string]bool, depth int) {
	if depth > maxScanDepth {
		return
	}
	for len(body) > 0 {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return
		}
		if typ != protowire.BytesType {
			m := protowire.ConsumeFieldValue(num, typ, body[n:])
			if m < 0 {
				return
			}
			body = body[n+m:]
			continue
		}
		v, m := protowire.ConsumeBytes(body[n:])
		if m < 0 {
			return
		}
		if names[string(v)] {
			found[string(v)] = true
		} else if len(v) > 1 {
			findNames(v, names, found, depth+1)
		}
		body = body[n+m:]
	}
}
