// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"pillion/proxy/http"
	"pillion/proxy/pool"
)

// Connect makes a connection to h for one stream of bytes, to be given back by
// its Close. cancel ends the attempt. The host's health hears of the result.
func (c *Cluster) Connect(h *Host, cancel <-chan struct{}) (*pool.RawConn, *http.Error) {
	rc, err := h.pool.ConnectRaw(cancel)
	if err != nil {
		h.ReportFailure(err.Kind)
		return nil, err
	}
	h.reportConnected()
	return rc, nil
}

// reportConnected reports a connection that was made for a stream of bytes,
// which is all that is known of how it went. It ends a row of failures, as an
// answer would (Envoy: Outlier::Result::LocalOriginConnectSuccessFinal).
func (h *Host) reportConnected() {
	if d := h.cluster.detector.Load(); d != nil {
		d.Answer(&h.outlier, 200)
	}
}
