// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"io"
	"time"

	"pillion/proxy/stats"
)

// Proxy is what the pod's contract asks of the proxy. All of it is safe for
// concurrent use, and nothing waits.
type Proxy interface {
	// Health tells how far the proxy is.
	Health() Health
	// WriteStats writes the proxy's metrics in Prometheus' text form.
	WriteStats(w io.Writer, q stats.Query) error
	// BeginDrain has connections end: HTTP/1 by "Connection: close", HTTP/2 by
	// GOAWAY, while listeners go on accepting. inboundOnly leaves alone what
	// the application itself has begun.
	BeginDrain(inboundOnly bool)
	// ActiveConnections counts the open connections to listeners of the mesh.
	// Those of the proxy's own ports don't count.
	ActiveConnections() int
	// Agent tells what Istio's agent would count of its work.
	Agent() AgentCounts
	// NameTable is the table of names that the control plane has sent, as
	// JSON; nil where there is none.
	NameTable() ([]byte, error)
}

// AgentCounts are what Istio's agent counts, as far as its work is done here: how it
// stands with the control plane and the CA, and with files of certificates.
type AgentCounts struct {
	// Requests are those that the control plane was sent, Responses its own.
	Requests, Responses uint64
	// Unopened are streams to it that couldn't be tried, Ended those that it ended or
	// that broke off, Failed those that came to another end.
	Unopened, Ended, Failed uint64
	// CA are requests for certificates; nil without a CA.
	CA *CACounts
	// FileFailures is how often files of certificates couldn't be used, WatchFailures how
	// often they couldn't be watched.
	FileFailures, WatchFailures uint64
	// Expires is when the workload's certificate does; zero without one.
	Expires time.Time
}

// CACounts are requests for a certificate.
type CACounts struct {
	All, Failed uint64
	Took        time.Duration // all of them together
}

// Health is how far a proxy is that a control plane drives.
type Health struct {
	State stats.State
	// Clusters and Listeners count the control plane's answers.
	Clusters, Listeners Updates
	// NameTable is set when one has come.
	NameTable bool
	// Waiting names what else has to come first, such as the workload's
	// certificate.
	Waiting []string
	// ControlPlane tells what stands between the proxy and its control plane,
	// such as a refused connection; empty when all is well.
	ControlPlane string
}

// Updates counts what came of one type of resource.
type Updates struct{ Accepted, Rejected uint64 }

// Reasons are why the proxy isn't ready, in words for a person; none when it is.
// The rule is that of Istio's agent
// (istio.io/istio/pilot/cmd/pilot-agent/status/ready): configuration was
// accepted once, and the server is live.
func (h Health) Reasons(needNames bool) []string {
	var out []string
	for _, u := range []struct {
		what string
		Updates
	}{{"clusters (CDS)", h.Clusters}, {"listeners (LDS)", h.Listeners}} {
		switch {
		case u.Accepted > 0:
		case u.Rejected > 0:
			out = append(out, fmt.Sprintf("all %d answers with %s were rejected; the log and istioctl proxy-status say why", u.Rejected, u.what))
		default:
			out = append(out, fmt.Sprintf("no %s have come from the control plane", u.what))
		}
	}
	if needNames && !h.NameTable {
		out = append(out, "no table of names (NDS) has come, and look-ups of the application are captured")
	}
	out = append(out, h.Waiting...)
	switch h.State {
	case stats.StateLive:
	case stats.StateDraining:
		out = append(out, "the proxy is draining")
	default:
		out = append(out, "the proxy is not live: "+h.State.String())
	}
	if len(out) > 0 && h.ControlPlane != "" {
		out = append(out, "control plane: "+h.ControlPlane)
	}
	return out
}
