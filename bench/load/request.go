// SPDX-License-Identifier: Apache-2.0

package load

import (
	"strconv"
	"strings"
	"time"
)

// Request is the one request that a load repeats.
type Request struct {
	// Addr is the IPv4 address and port to connect to.
	Addr string `json:"addr"`
	// Host is the Host field's value, Path the request target.
	Host string `json:"host"`
	Path string `json:"path"`
	// Fields are further header fields, name and value.
	Fields [][2]string `json:"fields,omitempty"`
	// Body, if not 0, makes it a POST with so many bytes.
	Body int `json:"body,omitempty"`
	// Close asks for a new connection per request (Connection: close).
	Close bool `json:"close,omitempty"`
}

// Method is POST with a body and GET without.
func (r Request) Method() string {
	if r.Body > 0 {
		return "POST"
	}
	return "GET"
}

// bodyByte fills request bodies.
const bodyByte = "x"

// Wire returns the request as sent (RFC 9112).
func (r Request) Wire() []byte {
	var b strings.Builder
	b.WriteString(r.Method() + " " + r.Path + " HTTP/1.1\r\nHost: " + r.Host + "\r\n")
	for _, f := range r.Fields {
		b.WriteString(f[0] + ": " + f[1] + "\r\n")
	}
	if r.Close {
		b.WriteString("Connection: close\r\n")
	}
	if r.Body > 0 {
		b.WriteString("Content-Length: " + strconv.Itoa(r.Body) + "\r\n")
	}
	b.WriteString("\r\n")
	b.WriteString(strings.Repeat(bodyByte, r.Body))
	return []byte(b.String())
}

// Errors counts requests that failed, by how.
type Errors struct {
	// Connect: no connection. Read, Write: a connection broke, or what came
	// wasn't HTTP. Status: an answer other than a success. Timeout: no answer
	// in time.
	Connect int64 `json:"connect"`
	Read    int64 `json:"read"`
	Write   int64 `json:"write"`
	Status  int64 `json:"status"`
	Timeout int64 `json:"timeout"`
}

// Total is the number of failed requests.
func (e Errors) Total() int64 { return e.Connect + e.Read + e.Write + e.Status + e.Timeout }

// String lists the kinds that occurred: "3 read, 1 timeout".
func (e Errors) String() string {
	var parts []string
	for _, k := range []struct {
		n    int64
		name string
	}{{e.Connect, "connect"}, {e.Read, "read"}, {e.Write, "write"}, {e.Status, "status"}, {e.Timeout, "timeout"}} {
		if k.n > 0 {
			parts = append(parts, strconv.FormatInt(k.n, 10)+" "+k.name)
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// Latency is a summary of response times.
type Latency struct {
	P50  time.Duration `json:"p50"`
	P90  time.Duration `json:"p90"`
	P99  time.Duration `json:"p99"`
	P999 time.Duration `json:"p999"`
	Max  time.Duration `json:"max"`
}

// Result is what one load did.
type Result struct {
	// Requests were answered, rightly or not, in Duration.
	Requests int64 `json:"requests"`
	// Bytes are those that a load without requests received.
	Bytes    int64         `json:"bytes,omitempty"`
	Duration time.Duration `json:"duration"`
	Errors   Errors        `json:"errors"`
	Latency  Latency       `json:"latency"`
	// DriverCPU is the CPU time of the load generator.
	DriverCPU time.Duration `json:"driver_cpu"`
}

// Rate is requests per second.
func (r Result) Rate() float64 {
	if r.Duration <= 0 {
		return 0
	}
	return float64(r.Requests) / r.Duration.Seconds()
}
