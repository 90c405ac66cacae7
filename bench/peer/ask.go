// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	nethttp "net/http"
	"time"

	"pillion/bench/mesh"
	"pillion/bench/origin"
)

// askTimeout bounds the proof by one request.
const askTimeout = 5 * time.Second

// ask sends one request on a connection of its own, in the protocol of the
// job's clients, and checks the answer, which the right version has to give.
func (j Job) ask(ctx context.Context, addr string, s mesh.Service, match bool) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, want, err := j.request(ctx, addr)
	if err != nil {
		return err
	}
	req.Host = s.Authority()
	if match {
		req.Header.Set(mesh.MatchField, mesh.MatchValue)
	}
	// Neither a proxy of the environment nor a connection of an earlier try.
	transport := &nethttp.Transport{DisableKeepAlives: true, DisableCompression: true, Protocols: protocols(j.Downstream.IsHTTP2())}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch got := resp.Header.Get(origin.VersionField); {
	case err != nil:
		return err
	case resp.StatusCode != nethttp.StatusOK:
		return fmt.Errorf("%s: status %d, want 200", req.Host, resp.StatusCode)
	case got != j.wants(match):
		return fmt.Errorf("%s: answered by version %q, want %q (%s set: %v)", req.Host, got, j.wants(match), mesh.MatchField, match)
	case len(body) != want:
		return fmt.Errorf("%s: body of %d bytes, want %d", req.Host, len(body), want)
	case j.Downstream == mesh.GRPC && resp.Trailer.Get("grpc-status") != "0":
		return fmt.Errorf("%s: grpc-status is %q in the trailers, want 0", req.Host, resp.Trailer.Get("grpc-status"))
	}
	return nil
}

// request returns the request that proves the job and the size of the answer's
// body.
func (j Job) request(ctx context.Context, addr string) (req *nethttp.Request, size int, err error) {
	url := "http://" + addr + "/check"
	if j.Downstream != mesh.GRPC {
		req, err = nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, url, nil)
		return req, origin.BodySize, err
	}
	message := GRPCMessage(100)
	if req, err = nethttp.NewRequestWithContext(ctx, nethttp.MethodPost, url, bytes.NewReader(message)); err != nil {
		return nil, 0, err
	}
	req.Header.Set("content-type", "application/grpc")
	req.Header.Set("te", "trailers")
	return req, len(message), nil
}

// GRPCMessage returns a message of so many bytes with gRPC's prefix: no
// compression, and the length.
func GRPCMessage(n int) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(n)), bytes.Repeat([]byte{'m'}, n)...)
}

// wants is the version that answers a request, with or without the field that
// selects a subset.
func (j Job) wants(match bool) string {
	if match && j.Subsets {
		return origin.Versions[1]
	}
	return origin.Versions[0]
}
