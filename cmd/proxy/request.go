// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	nethttp "net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// newRequest is `pilot-agent request`, by which istioctl and lifecycle hooks ask
// the proxy from within the pod, where there is no curl.
func newRequest() *cobra.Command {
	port := 15000
	cmd := &cobra.Command{
		Use:   "request METHOD PATH [BODY]",
		Short: "Ask the proxy of this pod",
		Long: `Send one request to a port of the proxy in this pod, by default to its admin
endpoint, and print the body of the answer and nothing else. The exit code is 1
for a status of 400 or more, but for 404.`,
		Example: `  pilot-agent request GET config_dump
  pilot-agent request --debug-port=15020 POST drain`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 || len(args) > 3 {
				return usageError{fmt.Errorf("give METHOD PATH, and BODY if there is one")}
			}
			if port < 1 || port > 65535 {
				return usageError{fmt.Errorf("--debug-port: %d is no port", port)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			body := ""
			if len(args) == 3 {
				body = args[2]
			}
			return askProxy(cmd.OutOrStdout(), port, args[0], args[1], body)
		},
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
	}
	cmd.Flags().IntVar(&port, "debug-port", port, "port on localhost: 15000 admin, 15020 status, 15021 probes")
	return cmd
}

func askProxy(out io.Writer, port int, method, path, body string) error {
	target := "http://" + joinPort("localhost", port) + "/" + strings.TrimPrefix(path, "/")
	req, err := nethttp.NewRequest(strings.ToUpper(method), target, strings.NewReader(body))
	if err != nil {
		return usageError{err}
	}
	client := &nethttp.Client{Timeout: time.Minute, Transport: &nethttp.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%w; is a proxy in this pod, and this its port? (%s)", err, os.Args[0]+" request --help")
	}
	defer res.Body.Close()
	if _, err := io.Copy(out, res.Body); err != nil {
		return fmt.Errorf("the answer to %s %s broke off: %w", method, target, err)
	}
	if res.StatusCode >= 400 && res.StatusCode != nethttp.StatusNotFound {
		return fmt.Errorf("%s %s: status %s", method, target, res.Status)
	}
	return nil
}
