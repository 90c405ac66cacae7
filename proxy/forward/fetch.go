// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"fmt"
	"time"

	"pillion/proxy/cluster"
	"pillion/proxy/http"
)

// Document is a GET that the proxy makes for itself, by a cluster that
// configuration names.
type Document struct {
	Scheme, Authority, Path string
	Timeout                 time.Duration // from choosing a host to the answer's end
	MaxBody                 int           // octets of the answer; a longer one is an error
}

// Fetch makes the request once and returns the answer of whatever status: a
// redirect is an answer as any other. Breakers, balancing and outlier detection
// are those of the cluster.
func Fetch(cl *cluster.Cluster, d *Document) (status int, body []byte, err error) {
	if cl == nil {
		return 0, nil, errors.New("there is no such cluster")
	}
	if !cl.AdmitRequest() {
		return 0, nil, errors.New("the cluster's circuit breaker is open")
	}
	defer cl.ReleaseRequest()
	r := &requestCopy{keep: d.MaxBody}
	r.head = http.RequestHead{Method: http.MethodGet, RawMethod: []byte("GET"), Scheme: []byte(d.Scheme),
		Authority: []byte(d.Authority), Path: []byte(d.Path), Protocol: http.HTTP11, HostName: []byte("host"), KeepAlive: true}
	host := cl.Pick(&cluster.PickArgs{Authority: r.head.Authority})
	if host == nil {
		return 0, nil, errors.New("the cluster has no healthy host")
	}
	status, ok, failed := r.sendTo(cl, host, time.Now().Add(d.Timeout))
	if failed != nil {
		host.ReportFailure(failed.Kind)
		return 0, nil, fmt.Errorf("no connection: %w", failed)
	}
	if !ok {
		host.ReportFailure(http.KindReset)
		return 0, nil, errors.New("the answer broke off, took too long or was too long")
	}
	host.ReportStatus(status)
	return status, r.answer, nil
}
