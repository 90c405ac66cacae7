// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// JSON renders the resources as one object with the lists "listeners", "routes",
// "clusters" and "endpoints", in their order, and "secrets" if there are any, without
// their private keys. Equal resources give equal bytes.
func (r *Resources) JSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("{")
	type named struct {
		name string
		msgs []proto.Message
	}
	lists := []named{
		{"listeners", messages(r.Listeners)},
		{"routes", messages(r.Routes)},
		{"clusters", messages(r.Clusters)},
		{"endpoints", messages(r.Endpoints)},
	}
	if len(r.Secrets) > 0 {
		secrets := named{name: "secrets"}
		for _, s := range r.Secrets {
			secrets.msgs = append(secrets.msgs, redacted(s))
		}
		lists = append(lists, secrets)
	}
	for i, list := range lists {
		if i > 0 {
			out.WriteString(",")
		}
		fmt.Fprintf(&out, "%q:[", list.name)
		for j, m := range list.msgs {
			if j > 0 {
				out.WriteString(",")
			}
			text, err := protojson.Marshal(m)
			if err != nil {
				return nil, fmt.Errorf("rendering %s %d: %w", list.name, j, err)
			}
			out.Write(text)
		}
		out.WriteString("]")
	}
	out.WriteString("}")
	return indent(out.Bytes())
}

// MarshalJSON renders one message, such as EnvoyBootstrap's, in the same way: equal
// messages give equal bytes, which protojson by itself avoids.
func MarshalJSON(m proto.Message) ([]byte, error) {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return indent(text)
}

func indent(text []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func messages[M proto.Message](list []M) []proto.Message {
	out := make([]proto.Message, len(list))
	for i, m := range list {
		out[i] = m
	}
	return out
}
