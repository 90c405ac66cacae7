// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	nethttp "net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// newWait is `pilot-agent wait`, which a postStart hook calls so that the
// application is started behind a proxy that serves.
func newWait() *cobra.Command {
	var seconds, requestMillis, periodMillis int
	var target string
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the proxy of this pod is ready",
		Long: `Ask the proxy of this pod until it says that it is ready. The exit code is 0 then,
and 1 when the time is up, with the reason why it isn't.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := url.Parse(target)
			if err != nil || u.Host == "" {
				return usageError{fmt.Errorf("--url: %q is no URL", target)}
			}
			if seconds < 0 || requestMillis <= 0 || periodMillis <= 0 {
				return usageError{fmt.Errorf("the times have to be above 0")}
			}
			q := u.Query()
			q.Set("verbose", "") // with the reasons
			u.RawQuery = q.Encode()
			client := &nethttp.Client{Timeout: time.Duration(requestMillis) * time.Millisecond, Transport: &nethttp.Transport{DisableKeepAlives: true}}
			return waitReady(client, u.String(), time.Duration(seconds)*time.Second, time.Duration(periodMillis)*time.Millisecond)
		},
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
	}
	fs := cmd.Flags()
	fs.IntVar(&seconds, "timeoutSeconds", 60, "how long to wait")
	fs.IntVar(&requestMillis, "requestTimeoutMillis", 500, "how long to wait for each answer")
	fs.IntVar(&periodMillis, "periodMillis", 500, "time between two questions")
	fs.StringVar(&target, "url", "http://localhost:15021/healthz/ready", "what to ask")
	return cmd
}

func waitReady(client *nethttp.Client, target string, limit, every time.Duration) error {
	timeUp := time.NewTimer(limit)
	defer timeUp.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := askReady(client, target)
		if err == nil {
			return nil
		}
		select {
		case <-timeUp.C:
			return fmt.Errorf("the proxy isn't ready after %v: %w", limit, err)
		case <-tick.C:
		}
	}
}

func askReady(client *nethttp.Client, target string) error {
	res, err := client.Get(target)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return err
	}
	if res.StatusCode != nethttp.StatusOK {
		reason := strings.ReplaceAll(strings.TrimSpace(string(body)), "\n", "; ")
		if reason == "" {
			return fmt.Errorf("it answers %s", res.Status)
		}
		return fmt.Errorf("it answers %s: %s", res.Status, reason)
	}
	return nil
}

// noArgs is the argument check of commands that take flags alone.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("there is nothing to do with %q", args)}
	}
	return nil
}
