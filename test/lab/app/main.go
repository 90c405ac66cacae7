// SPDX-License-Identifier: Apache-2.0

// Command app is the application in a pod of the lab: it answers over HTTP/1.1
// and HTTP/2 in the clear with what it was asked, and may call another service
// first. The query of a request may ask for more: delay=1s for an answer that
// takes its time, status=503 for one, and until-attempt=3 for a 503 as long as
// x-envoy-attempt-count is below. With -get it is a client instead: it makes one request and prints the
// answer.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	nethttp "net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// answer is what a request was met with.
type answer struct {
	App     string              `json:"app"`
	Path    string              `json:"path"`
	Host    string              `json:"host"`
	Proto   string              `json:"proto"`
	Peer    string              `json:"peer"` // the address that the connection came from
	Headers map[string][]string `json:"headers"`
	Status  int                 `json:"status,omitempty"` // of the call that it made
	Called  json.RawMessage     `json:"called,omitempty"` // what the call was answered
	Error   string              `json:"error,omitempty"`  // why there is no answer to the call
}

// passed are the headers that an application has to hand on.
var passed = []string{"x-request-id", "traceparent", "tracestate", "baggage", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "b3", "end-user", "user-agent"}

func run() error {
	listen := flag.String("listen", ":9080", "address to serve")
	name := flag.String("name", "app", "how it calls itself")
	calls := flag.String("calls", "", "URL of a service that it calls for each request")
	get := flag.String("get", "", "URL to request, instead of serving")
	header := flag.String("header", "", "NAME: VALUE of a header for -get")
	flag.Parse()
	// A connection for each request, so that each is balanced.
	client := &nethttp.Client{Timeout: 15 * time.Second, Transport: &nethttp.Transport{DisableKeepAlives: true}}
	if *get != "" {
		return request(client, *get, *header)
	}
	server := &nethttp.Server{Addr: *listen, ReadHeaderTimeout: 10 * time.Second, Protocols: new(nethttp.Protocols),
		Handler: nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
			a := answer{App: *name, Path: r.URL.RequestURI(), Host: r.Host, Proto: r.Proto, Peer: r.RemoteAddr, Headers: r.Header}
			if *calls != "" {
				a.call(client, *calls, r)
			}
			code := wanted(r)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-App", *name)
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(a) // the caller may have gone
		})}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	fmt.Println("serving", *listen)
	return server.ListenAndServe()
}

// wanted does what the query of a request asks for, and returns the status of
// the answer. What can't be read isn't asked for.
func wanted(r *nethttp.Request) int {
	q := r.URL.Query()
	if delay, err := time.ParseDuration(q.Get("delay")); err == nil {
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
		}
	}
	if code, err := strconv.Atoi(q.Get("status")); err == nil && code >= 200 && code < 600 {
		return code
	}
	attempt, _ := strconv.Atoi(r.Header.Get("X-Envoy-Attempt-Count"))
	if until, err := strconv.Atoi(q.Get("until-attempt")); err == nil && attempt < until {
		return nethttp.StatusServiceUnavailable
	}
	return nethttp.StatusOK
}

// call calls the next service on behalf of a request.
func (a *answer) call(client *nethttp.Client, url string, r *nethttp.Request) {
	req, err := nethttp.NewRequestWithContext(r.Context(), nethttp.MethodGet, url, nil)
	if err != nil {
		a.Error = err.Error()
		return
	}
	for _, h := range passed {
		if v := r.Header.Get(h); v != "" {
			req.Header.Set(h, v)
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		a.Error = err.Error()
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		a.Error = err.Error()
		return
	}
	a.Status = resp.StatusCode
	if json.Valid(body) {
		a.Called = body
	} else {
		a.Called, _ = json.Marshal(string(body)) // a string can be marshaled
	}
}

// request makes one request and prints status and body.
func request(client *nethttp.Client, url, header string) error {
	req, err := nethttp.NewRequest(nethttp.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if name, value, ok := strings.Cut(header, ":"); ok {
		req.Header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}
