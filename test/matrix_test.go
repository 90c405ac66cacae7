// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"pillion/test/rig"
	"pillion/test/wire"
)

// message is a request or a response in neither protocol's form.
type message struct {
	fields   wire.Fields // :method, :path, :authority, :protocol or :status first, the others as they came
	body     string
	trailers wire.Fields
	end      string // how it ended: "end", or "broken off"
}

// job is one kind of exchange: what the client sends, in its parts, and what
// an origin does.
type job struct {
	name     string
	method   string
	fields   wire.Fields // of the request
	parts    []string    // of the request's body
	streamed bool        // the request's body has no length
	trailers wire.Fields // of the request
	open     bool        // the client doesn't end its request
	// cancel: the client resets when the origin has the request's head.
	cancel  bool
	upgrade bool

	reply answer
	// want is the status that the client has to get of both proxies; "" where
	// none has to come.
	want string
}

// answer is what the origin does.
type answer struct {
	early   bool // without waiting for the request's end
	interim bool // a 103 first
	status  string
	fields  wire.Fields
	parts   []string
	// trailers end the body; broken breaks it off; silent sends nothing at all.
	trailers       wire.Fields
	broken, silent bool
}

func field(name, value string) wire.Field { return wire.Field{Name: name, Value: value} }

// matrixJobs is the third axis of the matrix.
func matrixJobs() []job {
	length := func(s string) wire.Fields { return wire.Fields{field("content-length", itoa(len(s)))} }
	sum := wire.Fields{field("x-sum", "42")}
	ok := answer{status: "200", fields: length("world"), parts: []string{"world"}}
	streamed := answer{status: "200", parts: []string{"one", "two"}}
	return []job{
		{name: "no body", method: "GET", reply: answer{status: "200", fields: length("")}, want: "200"},
		{name: "no body, 204", method: "DELETE", reply: answer{status: "204"}, want: "204"},
		{name: "no body, 304", method: "GET", reply: answer{status: "304", fields: wire.Fields{field("etag", `"x"`)}}, want: "304"},
		{name: "HEAD", method: "HEAD", reply: answer{status: "200", fields: length("world")}, want: "200"},
		{name: "fixed length", method: "POST", fields: length("hello"), parts: []string{"hello"}, reply: ok, want: "200"},
		{name: "fixed length of nothing", method: "POST", fields: length(""), reply: ok, want: "200"},
		{name: "fixed length of 1 MiB", method: "POST", fields: length(strings.Repeat("x", 1<<20)), parts: []string{strings.Repeat("x", 1<<20)},
			reply: answer{status: "200", fields: length(strings.Repeat("y", 1<<20)), parts: []string{strings.Repeat("y", 1<<20)}}, want: "200"},
		{name: "streamed", method: "POST", streamed: true, parts: []string{"one", "two"}, reply: streamed, want: "200"},
		{name: "streamed, 1 MiB", method: "POST", streamed: true, parts: []string{strings.Repeat("x", 1<<20)}, reply: answer{status: "200", parts: []string{strings.Repeat("y", 1<<20)}}, want: "200"},
		{name: "trailers of both", method: "POST", streamed: true, fields: wire.Fields{field("te", "trailers")}, parts: []string{"one"}, trailers: sum,
			reply: answer{status: "200", parts: []string{"one"}, trailers: sum}, want: "200"},
		{name: "trailers without a body", method: "GET", fields: wire.Fields{field("te", "trailers")}, reply: answer{status: "200", trailers: sum}, want: "200"},
		{name: "interim response", method: "GET", reply: answer{interim: true, status: "200", fields: length("world"), parts: []string{"world"}}, want: "200"},
		{name: "cookies", method: "GET", fields: wire.Fields{field("cookie", "a=1"), field("cookie", "b=2")}, reply: answer{status: "200",
			fields: wire.Fields{field("set-cookie", "a=1"), field("set-cookie", "b=2"), field("content-length", "0")}}, want: "200"},
		{name: "fields of many kinds", method: "GET", fields: wire.Fields{field("accept", "*/*"), field("x-twice", "1"), field("x-twice", "2"), field("x-empty", ""), field("user-agent", "t")},
			reply: answer{status: "200", fields: wire.Fields{field("server", "mine"), field("via", "1.1 x"), field("x-twice", "1"), field("x-twice", "2"), field("content-length", "0")}}, want: "200"},
		{name: "early response", method: "POST", streamed: true, parts: []string{"one"}, open: true, reply: answer{early: true, status: "413", fields: length("large"), parts: []string{"large"}}, want: "413"},
		{name: "reset by the client", method: "POST", streamed: true, parts: []string{"one"}, open: true, cancel: true, reply: answer{early: true, silent: true}},
		{name: "reset by the server before its head", method: "POST", fields: length("hello"), parts: []string{"hello"}, reply: answer{broken: true}, want: "503"},
		{name: "reset by the server in its body", method: "GET", reply: answer{status: "200", fields: length("world and more"), parts: []string{"world"}, broken: true}, want: "200"},
		{name: "reset by the server in a stream", method: "GET", reply: answer{status: "200", parts: []string{"world"}, broken: true}, want: "200"},
		{name: "upgrade", method: "GET", upgrade: true, parts: []string{"to the server"}, reply: answer{early: true, status: "101", parts: []string{"to the client"}}, want: "101"},
		{name: "upgrade that is refused", method: "GET", upgrade: true, reply: answer{early: true, status: "403", fields: length("no"), parts: []string{"no"}}, want: "403"},
	}
}

// matrixLab is the two proxies before the same two origins.
type matrixLab struct {
	envoy, ours string

	mu   sync.Mutex
	jobs map[string]job       // immutable
	seen map[string]*message  // guarded by mu; by x-case
	at   map[string]chan bool // guarded by mu; closed when the origin has the head
}

func TestMatrix(t *testing.T) {
	t.Parallel()
	lab := &matrixLab{jobs: map[string]job{}, seen: map[string]*message{}, at: map[string]chan bool{}}
	for _, j := range matrixJobs() {
		lab.jobs[j.name] = j
	}
	app := wire.NewRawOrigin(t, lab.serve1)
	multi := wire.NewH2Origin(t, rig.Patience, wire.H2Options{Settings: []http2.Setting{{ID: http2.SettingEnableConnectProtocol, Val: 1}}}, lab.serve2)
	path := fill(t, t.TempDir(), "two-protocols.yaml", "h1", app.Port(), "h2", multi.Port())
	lab.ours = rig.Start(t, binaries.Static(t), rig.Options{}, path).HTTP
	lab.envoy = startEnvoy(t, nil, path).HTTP

	used, ran := map[int]bool{}, 0
	for _, down := range []string{"h1", "h2"} {
		for _, up := range []string{"h1", "h2"} {
			for _, j := range matrixJobs() {
				name := down + " to " + up + ": " + j.name
				t.Run(name, func(t *testing.T) {
					ran++
					c := comparison{t, name, matrixAllowances, used}
					c.messages(j, lab.exchange(lab.envoy, down, up, j), lab.exchange(lab.ours, down, up, j))
				})
			}
		}
	}
	for i, l := range matrixAllowances {
		if ran == 4*len(lab.jobs) && !used[i] && !t.Failed() {
			t.Errorf("nothing differs any more where %s %s may (%s): take the allowance away", l.where, l.field, l.why)
		}
	}
}

// outcomes is one exchange as its two ends saw it.
type outcomes struct {
	client, origin *message
}

// messages compares what both ends saw through Envoy and through ours.
func (c comparison) messages(j job, envoy, ours outcomes) {
	c.t.Helper()
	for who, o := range map[string]outcomes{"Envoy": envoy, "ours": ours} {
		status := o.client.fields.Get(":status")
		if status != j.want && !c.allowed("status", who, []string{j.want}, []string{status}) {
			c.t.Errorf("%s: the client got status %q, want %q", who, status, j.want)
		}
		if o.origin == nil {
			c.t.Errorf("%s: the origin saw nothing", who)
			return
		}
	}
	for _, end := range []struct {
		where        string
		one, another *message
	}{{"response", envoy.client, ours.client}, {"request", envoy.origin, ours.origin}} {
		c.text("body of the "+end.where, end.one.body, end.another.body)
		c.text("end of the "+end.where, end.one.end, end.another.end)
		c.fields(end.where, end.one.fields, end.another.fields)
		c.fields(end.where+" trailer", end.one.trailers, end.another.trailers)
	}
}

// exchange does a job through one proxy.
func (lab *matrixLab) exchange(proxy, down, up string, j job) outcomes {
	id := proxy + down + up + j.name
	lab.mu.Lock()
	lab.at[id] = make(chan bool)
	lab.mu.Unlock()
	host := map[string]string{"h1": "app", "h2": "multi"}[up]
	fields := append(wire.Fields{field("x-case", id), field("x-job", j.name)}, j.fields...)
	var got *message
	var err error
	if down == "h1" {
		got, err = lab.client1(proxy, host, id, j, fields)
	} else {
		got, err = lab.client2(proxy, host, id, j, fields)
	}
	if err != nil {
		got.end = err.Error()
	}
	// The origin may learn of the end a little later than the client, unless
	// the proxy has answered in its place.
	if status := got.fields.Get(":status"); status != j.want {
		return outcomes{got, lab.take(id)}
	}
	_ = rig.Await(func() error { // its absence is reported where the ends are compared
		lab.mu.Lock()
		defer lab.mu.Unlock()
		if m := lab.seen[id]; m == nil || m.end == "" {
			return errors.New("the origin isn't done")
		}
		return nil
	})
	seen := lab.take(id)
	for _, m := range []*message{got, seen} {
		if m != nil {
			m.normalize(id)
		}
	}
	return outcomes{got, seen}
}

// take returns what the origin has seen of an exchange.
func (lab *matrixLab) take(id string) *message {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	return lab.seen[id]
}

// normalize takes out what names the exchange.
func (m *message) normalize(id string) {
	for i := range m.fields {
		if m.fields[i].Value == id {
			m.fields[i].Value = "the case"
		}
	}
}

// arrived tells a client that waits that the origin has the head.
func (lab *matrixLab) arrived(id string) {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if at := lab.at[id]; at != nil {
		select {
		case <-at:
		default:
			close(at)
		}
	}
}

// wait waits for arrived.
func (lab *matrixLab) wait(id string) error {
	lab.mu.Lock()
	at := lab.at[id]
	lab.mu.Unlock()
	return rig.Await(func() error {
		select {
		case <-at:
			return nil
		default:
			return fmt.Errorf("the origin didn't get the request")
		}
	})
}

// keep keeps what an origin has seen in the end.
func (lab *matrixLab) keep(m *message, end string) {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	m.end = end
	lab.seen[m.fields.Get("x-case")] = m
}

// ended names the end of a stream.
func ended(err error) string {
	if err == nil || err == io.EOF {
		return "end"
	}
	return "broken off"
}

// matrixAllowances lists what may differ.
var matrixAllowances = []allowance{
	{where: "response", field: "date", fine: each(func(v string) bool { return strings.HasSuffix(v, " GMT") }),
		why: "the two answers are made at different moments"},
	{where: "response", field: "x-envoy-upstream-service-time", fine: each(isNumber),
		why: "milliseconds that were measured"},
	{where: "request", field: "x-request-id", fine: each(uuid.MatchString),
		why: "a random number each"},
	{where: "response trailer", field: "x-sum", cases: "h1", fine: only("", "42"),
		why: "Envoy drops the trailers of HTTP/1 unless it is told to keep them"},
	{where: "request trailer", field: "x-sum", cases: "h1", fine: only("", "42"),
		why: "Envoy drops the trailers of HTTP/1 unless it is told to keep them"},
	{where: "response", field: "sec-websocket-accept", cases: "h1 to h2: upgrade$", fine: only("", upgradeAccept),
		why: "hosts of HTTP/2 leave it out (RFC 8441), and clients of HTTP/1 fail without it"},
	{where: "end of the response", cases: "h2 to h1: upgrade$", fine: only("broken off", "end"),
		why: "Envoy resets the stream of a host that has closed in an orderly way"},
}
