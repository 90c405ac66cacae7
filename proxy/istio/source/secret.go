// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/base64"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Secret is what a proxy needs of a Kubernetes v1 Secret or ConfigMap: the entries that
// hold certificates, keys and lists of revoked certificates.
type Secret struct {
	Type string // "kubernetes.io/tls", "Opaque" …; empty for a ConfigMap
	// Data holds those entries that may be of use (see certificateEntries), decoded.
	Data map[string][]byte
	// Others are the names of all other entries, sorted.
	Others []string
}

// certificateEntries are the names under which certificates are kept: those of
// kubernetes.io/tls, and Istio's older ones.
var certificateEntries = []string{"tls.crt", "tls.key", "ca.crt", "ca.crl", "cert", "key", "cacert", "crl"}

func secretKeys() []string {
	return []string{"apiVersion", "binaryData", "data", "immutable", "kind", "metadata", "stringData", "type"}
}

// maxSecretEntry bounds one entry; Kubernetes bounds the whole object to 1 MiB.
const maxSecretEntry = 1 << 20

// readSecret reads a v1 Secret, or a ConfigMap. Entries that can't be certificates are
// not looked into.
func (s *subject) readSecret() *Secret {
	out := &Secret{Data: map[string][]byte{}}
	encoded, plain := "data", "stringData"
	if s.Kind == "ConfigMap" {
		encoded, plain = "binaryData", "data"
	}
	s.eachEntry(s.root, s.top, secretKeys(), func(key string, val *yaml.Node, at *place) {
		switch key {
		case "type":
			out.Type, _ = s.text(val, at)
		case encoded:
			s.secretEntries(val, at, out, true)
		}
	})
	s.eachEntry(s.root, s.top, secretKeys(), func(key string, val *yaml.Node, at *place) {
		if key == plain { // goes before what is encoded, as in Kubernetes
			s.secretEntries(val, at, out, false)
		}
	})
	slices.Sort(out.Others)
	out.Others = slices.Compact(out.Others)
	return out
}

// secretEntries reads one of the mappings. Messages never show a value.
func (s *subject) secretEntries(n *yaml.Node, at *place, out *Secret, encoded bool) {
	n = target(n)
	if n.Kind != yaml.MappingNode {
		s.fail(n, at, "wants a mapping of names to texts")
		return
	}
	for pairs := entries(n); len(pairs) > 1; pairs = pairs[2:] {
		name, val := pairs[0].Value, target(pairs[1])
		here := at.key(name)
		if !slices.Contains(certificateEntries, name) {
			out.Others = append(out.Others, name)
			continue
		}
		if isNull(val) {
			out.Data[name] = nil // there, and empty
			continue
		}
		if val.Kind != yaml.ScalarNode {
			s.fail(val, here, "wants a text")
			continue
		}
		value := []byte(val.Value)
		if encoded {
			var err error
			text := strings.Join(strings.Fields(val.Value), "")
			if value, err = base64.StdEncoding.DecodeString(text); err != nil {
				s.fail(val, here, "isn't base64; plain text goes into %s", map[bool]string{true: "data", false: "stringData"}[s.Kind == "ConfigMap"])
				continue
			}
		}
		if len(value) > maxSecretEntry {
			s.fail(val, here, "has more than %d bytes", maxSecretEntry)
			continue
		}
		out.Data[name] = value
	}
}
