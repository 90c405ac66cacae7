// SPDX-License-Identifier: Apache-2.0

package peer

import "context"

// direct is no proxy at all: the load goes to the origin. Its requests per
// second and latencies are the limit of the machine and the load generator.
type direct struct{}

func (direct) Name() string    { return Direct }
func (direct) Summary() string { return "no proxy: the load goes straight to the origin; the limit" }

func (direct) Unable(job Job) string {
	if job.TLS.On() {
		return "direct has no TLS to begin or end"
	}
	return ""
}

func (direct) Locate(context.Context, string) (Tool, error) {
	return Tool{Version: "no proxy"}, nil
}

func (direct) Prepare(_ Tool, _ string, job Job) (Launch, error) {
	if !job.Subsets {
		return Launch{Addr: job.Origins[0]}, nil
	}
	return Launch{Addr: job.Origins[1], HostOnly: true}, nil
}
