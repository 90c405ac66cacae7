// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	wrapperType = "type.googleapis.com/envoy.service.discovery.v3.Resource"
	// maxReason bounds the text of a refusal, in octets. It names resources, of
	// which a response may hold thousands.
	maxReason = 4096
	// maxProblems bounds the problems of one response that are put into words.
	maxProblems = 20
)

// response is what one message of the server says, in either protocol.
type response struct {
	update   Update
	nonce    string
	server   string // what the server calls itself
	octets   int
	problems problems // of resources that the Sink can't be given
}

// stream is an open stream in either protocol. One goroutine sends, another
// receives.
type stream interface {
	send(r *request, node *Node) error
	recv() (*response, error)
}

// open opens a stream of the delta protocol, or with world of the
// state-of-the-world protocol, in which name says what resources are called.
func open(ctx context.Context, conn *grpc.ClientConn, world bool, name func(typeURL string, body []byte) (string, error)) (stream, error) {
	ads := discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
	if world {
		st, err := ads.StreamAggregatedResources(ctx)
		return worldStream{st, name}, err
	}
	st, err := ads.DeltaAggregatedResources(ctx)
	return deltaStream{st}, err
}

// problems are what is wrong with resources, a bounded number of them in words.
type problems struct {
	texts []string
	more  int
}

func (p *problems) add(format string, args ...any) {
	if len(p.texts) == maxProblems {
		p.more++
		return
	}
	p.texts = append(p.texts, fmt.Sprintf(format, args...))
}

// reason joins the problems and what the Sink says into the text of a refusal,
// "" if there is neither.
func (p *problems) reason(sink error) string {
	texts := p.texts
	if p.more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more like these", p.more))
	}
	if sink != nil {
		texts = append(texts, sink.Error())
	}
	return cut(strings.Join(texts, "; "), maxReason)
}

// cut makes a text at most n octets long, and such as protobuf takes: a message
// with a string that isn't UTF-8 can't be sent.
func cut(text string, n int) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	const mark = " [cut]"
	if len(text) <= n {
		return text
	}
	n -= len(mark)
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + mark
}

// errorDetail is a refusal on the wire, nil if there is none.
func (r *request) errorDetail() *status.Status {
	if r.refusal == "" {
		return nil
	}
	return &status.Status{Code: int32(codes.InvalidArgument), Message: r.refusal}
}

type deltaStream struct {
	st grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
}

func (s deltaStream) send(r *request, node *Node) error {
	return s.st.Send(&discoveryv3.DeltaDiscoveryRequest{
		Node: node, TypeUrl: r.typeURL, ResponseNonce: r.nonce, ErrorDetail: r.errorDetail(),
		ResourceNamesSubscribe: r.subscribe, ResourceNamesUnsubscribe: r.unsubscribe, InitialResourceVersions: r.initial,
	})
}

func (s deltaStream) recv() (*response, error) {
	m, err := s.st.Recv()
	if err != nil {
		return nil, err
	}
	return readDelta(m), nil
}

// readDelta reads a response of the delta protocol.
func readDelta(m *discoveryv3.DeltaDiscoveryResponse) *response {
	r := &response{
		update: Update{TypeURL: m.GetTypeUrl(), Version: m.GetSystemVersionInfo()},
		nonce:  m.GetNonce(), server: m.GetControlPlane().GetIdentifier(), octets: proto.Size(m),
	}
	c := collector{r: r, at: make(map[string]int, len(m.GetResources()))}
	for i, res := range m.GetResources() {
		if res.GetResource() == nil && res.GetTtl() != nil {
			continue // a heartbeat: the resource is as it was
		}
		c.add(i, res.GetName(), res.GetVersion(), res.GetResource())
	}
	c.done()
	for _, name := range m.GetRemovedResources() {
		if _, sent := c.at[name]; sent {
			r.problems.add("%.200q is both sent and removed", name)
			continue
		}
		r.update.Removed = append(r.update.Removed, name)
	}
	return r
}

type worldStream struct {
	st   grpc.BidiStreamingClient[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	name func(typeURL string, body []byte) (string, error) // immutable
}

func (s worldStream) send(r *request, node *Node) error {
	return s.st.Send(&discoveryv3.DiscoveryRequest{
		Node: node, TypeUrl: r.typeURL, ResponseNonce: r.nonce, ErrorDetail: r.errorDetail(),
		ResourceNames: r.names, VersionInfo: r.version,
	})
}

func (s worldStream) recv() (*response, error) {
	m, err := s.st.Recv()
	if err != nil {
		return nil, err
	}
	return readWorld(m, s.name), nil
}

// readWorld reads a response of the state-of-the-world protocol, in which a
// resource's name is a part of it.
func readWorld(m *discoveryv3.DiscoveryResponse, nameOf func(typeURL string, body []byte) (string, error)) *response {
	typeURL, version := m.GetTypeUrl(), m.GetVersionInfo()
	r := &response{
		update: Update{TypeURL: typeURL, Version: version},
		nonce:  m.GetNonce(), server: m.GetControlPlane().GetIdentifier(), octets: proto.Size(m),
	}
	c := collector{r: r, at: make(map[string]int, len(m.GetResources()))}
	for i, body := range m.GetResources() {
		var wrapped discoveryv3.Resource
		if body.GetTypeUrl() == wrapperType {
			if err := proto.Unmarshal(body.GetValue(), &wrapped); err != nil {
				r.problems.add("resource %d of the response can't be read: %v", i, err)
				continue
			}
			body = wrapped.GetResource()
		}
		name := wrapped.GetName()
		if name == "" && body.GetTypeUrl() == typeURL {
			var err error
			if name, err = nameOf(typeURL, body.GetValue()); err != nil {
				r.problems.add("resource %d of the response can't be read: %v", i, err)
				continue
			}
		}
		c.add(i, name, version, body)
	}
	c.done()
	return r
}

// collector puts resources into an update, each name once. There are types of
// one resource that has no name, as Istio's table of names: it is called "".
type collector struct {
	r     *response
	at    map[string]int // where each name stands
	twice set            // names that stand there twice, with two contents
}

// add takes the i-th resource of the response.
func (c *collector) add(i int, name, version string, body *anypb.Any) {
	u := &c.r.update
	if got := body.GetTypeUrl(); got != u.TypeURL {
		c.r.problems.add("resource %d of the response, %.200q, is of type %.200q and not of %.200q", i, name, got, u.TypeURL)
		return
	}
	at, sent := c.at[name]
	switch {
	case !sent:
		c.at[name] = len(u.Resources)
		u.Resources = append(u.Resources, Resource{name, version, body.GetValue()})
	case !bytes.Equal(u.Resources[at].Body, body.GetValue()):
		if c.twice == nil {
			c.twice = set{}
		}
		if !c.twice.has(name) {
			c.r.problems.add("%.200q stands in the response twice, with different contents", name)
		}
		c.twice[name] = struct{}{}
	}
}

// done leaves out what stood there twice: which one is meant can't be known.
func (c *collector) done() {
	c.r.update.Resources = slices.DeleteFunc(c.r.update.Resources, func(r Resource) bool { return c.twice.has(r.Name) })
}
