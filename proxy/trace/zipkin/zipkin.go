// SPDX-License-Identifier: Apache-2.0

// Package zipkin sends spans to a collector in Zipkin's JSON, version 2.
package zipkin

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"

	"pillion/proxy/filter"
	"pillion/proxy/trace"
)

const (
	// timeout is how long a collector may take, unless configuration says otherwise
	// (Envoy: tracing.zipkin.request_timeout).
	timeout = 5 * time.Second
	// maxAnswer bounds what a collector may answer, in octets.
	maxAnswer = 64 << 10
)

// Env is what a Collector is built with.
type Env struct {
	// Client returns a client of a cluster, which need not exist yet.
	Client func(cluster string) filter.Client
	// Service is the name of the proxy's service (Node.cluster).
	Service string
	// HTTP reads what configuration says of a service.
	HTTP func(*corev3.HttpService) (*filter.HTTPService, error)
}

// Collector is one collector. It is immutable, and implements trace.Collector.
type Collector struct {
	service  *filter.HTTPService
	endpoint string // the beginning of localEndpoint
}

// New compiles the configuration. An error names the field. What it says of IDs and of
// propagation is for the caller.
func New(cfg *tracev3.ZipkinConfig, env *Env) (*Collector, error) {
	c := &Collector{endpoint: endpointOf(env.Service)}
	var err error
	if s := cfg.GetCollectorService(); s == nil {
		c.service, err = ofCluster(cfg, env)
	} else if c.service, err = env.HTTP(s); err != nil {
		err = fmt.Errorf("collector_service.%w", err)
	} else if c.service.Timeout == 0 {
		c.service.Timeout = timeout
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// ofCluster reads the fields that were there before collector_service.
func ofCluster(cfg *tracev3.ZipkinConfig, env *Env) (*filter.HTTPService, error) {
	switch v := cfg.GetCollectorEndpointVersion(); {
	case cfg.GetCollectorCluster() == "":
		return nil, errors.New("collector_cluster: is needed, or collector_service")
	case !strings.HasPrefix(cfg.GetCollectorEndpoint(), "/"):
		return nil, fmt.Errorf("collector_endpoint: %q is no path", cfg.GetCollectorEndpoint())
	case v != tracev3.ZipkinConfig_HTTP_JSON:
		return nil, fmt.Errorf("collector_endpoint_version: %s is not supported, only HTTP_JSON", v)
	}
	out := &filter.HTTPService{Client: env.Client(cfg.GetCollectorCluster()), Authority: cfg.GetCollectorHostname(),
		Path: cfg.GetCollectorEndpoint(), Timeout: timeout}
	if out.Authority == "" {
		out.Authority = cfg.GetCollectorCluster()
	}
	return out, nil
}

// Append implements trace.Collector.
func (c *Collector) Append(batch []byte, s *trace.Span) []byte {
	if len(batch) == 0 {
		batch = append(batch, '[')
	}
	return appendSpan(batch, s, c.endpoint)
}

var jsonType = []byte("application/json")

// Send implements trace.Collector.
func (c *Collector) Send(batch []byte, _ int, cancel <-chan struct{}) error {
	batch[len(batch)-1] = ']' // for the comma behind the last one
	call := c.service.Post(jsonType, batch)
	call.MaxBody, call.Cancel = maxAnswer, cancel
	a, failed := c.service.Client.Do(call)
	if failed != nil {
		return failed
	}
	if a.Status < 200 || a.Status > 299 {
		return fmt.Errorf("status %d", a.Status)
	}
	return nil
}
