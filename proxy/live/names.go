// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// nameTaker is the Sink as a taker of name tables.
type nameTaker Sink

// take implements taker.
func (t *nameTaker) take(_ *entry[struct{}], body []byte) error {
	_, err := parseNames(body)
	return err
}

func (t *nameTaker) drop(e *entry[struct{}]) { delete((*Sink)(t).names.all, e.name) }

// NameTable returns the istio.networking.nds.v1.NameTable that came last as JSON, nil
// if none has.
func (s *Sink) NameTable() ([]byte, error) {
	s.mu.Lock()
	var body []byte
	for _, e := range s.names.all {
		if e.good.is() {
			body = e.good.body
		}
	}
	came := s.names.counts.accepted.Value() > 0
	s.mu.Unlock()
	if !came {
		return nil, nil
	}
	table, err := parseNames(body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Table map[string]*nameInfo `json:"table"`
	}{table})
}

// nameInfo is a NameTable.NameInfo, in the JSON form of protobuf.
type nameInfo struct {
	IPs       []string `json:"ips,omitempty"`
	Registry  string   `json:"registry,omitempty"`
	Shortname string   `json:"shortname,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	AltHosts  []string `json:"altHosts,omitempty"`
}

// parseNames decodes a NameTable, whose Go package is istiod's own: a map from names
// (field 1) to what they stand for.
func parseNames(body []byte) (map[string]*nameInfo, error) {
	table := map[string]*nameInfo{}
	err := eachField(body, func(num protowire.Number, v []byte) error {
		if num != 1 {
			return nil
		}
		name, info := "", &nameInfo{}
		err := eachField(v, func(num protowire.Number, v []byte) error {
			switch num {
			case 1:
				name = string(v)
			case 2:
				return info.parse(v)
			}
			return nil
		})
		table[name] = info
		return err
	})
	return table, err
}

func (n *nameInfo) parse(body []byte) error {
	return eachField(body, func(num protowire.Number, v []byte) error {
		switch num {
		case 1:
			n.IPs = append(n.IPs, string(v))
		case 2:
			n.Registry = string(v)
		case 3:
			n.Shortname = string(v)
		case 4:
			n.Namespace = string(v)
		case 5:
			n.AltHosts = append(n.AltHosts, string(v))
		}
		return nil
	})
}

// eachField calls f for the strings, bytes and messages of a serialized message.
func eachField(body []byte, f func(num protowire.Number, v []byte) error) error {
	for len(body) > 0 {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return fmt.Errorf("can't be decoded: %w", protowire.ParseError(n))
		}
		m := protowire.ConsumeFieldValue(num, typ, body[n:])
		if m < 0 {
			return fmt.Errorf("can't be decoded: %w", protowire.ParseError(m))
		}
		if typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(body[n:])
			if err := f(num, v); err != nil {
				return err
			}
		}
		body = body[n+m:]
	}
	return nil
}

// Name returns the name of a serialized resource, as the state-of-the-world protocol
// needs it: it is the first field of all types but that of the name table, of which there
// is one, without a name.
func Name(typeURL string, body []byte) (string, error) {
	if typeURL == NameTableType {
		return "", nil
	}
	return nameOf(body)
}

func nameOf(body []byte) (name string, err error) {
	err = eachField(body, func(num protowire.Number, v []byte) error {
		if num == 1 {
			name = string(v)
		}
		return nil
	})
	return name, err
}
