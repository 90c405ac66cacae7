// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"pillion/proxy"
	"pillion/proxy/demo"
)

func newDemo() *cobra.Command {
	var f runFlags
	var dir string
	cmd := &cobra.Command{
		Use:   "demo [flags]",
		Short: "Run a small mesh in one process, with lines to try",
		Long: `Run the bookinfo workloads productpage → reviews v1, v2, v3 → ratings in this
process, write the resources that route between them into a directory, serve that
directory as 'proxy run' would, and print lines to paste that show each feature.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("demo takes no arguments, but got %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd, &f, dir) },
	}
	f.register(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "empty directory for the resources; a temporary one, removed at the end, by default")
	return cmd
}

func runDemo(cmd *cobra.Command, f *runFlags, dir string) error {
	if f.http == "" {
		return usageError{fmt.Errorf("--http: the demo's workloads reach each other through it, so it can't be empty")}
	}
	if dir == "" {
		tmp, err := os.MkdirTemp("", "pillion-demo-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(tmp) }()
		dir = tmp
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	mesh, err := demo.Start()
	if err != nil {
		return err
	}
	defer mesh.Close()
	if err := mesh.WriteFiles(dir); err != nil {
		return err
	}
	o, err := f.proxyOptions(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	o.Paths = []string{dir}
	if o.Labels == nil {
		o.Labels = map[string]string{"app": "productpage", "version": "v1"}
	}
	if o.Workload == "" {
		o.Workload = "productpage-v1"
	}
	s, err := proxy.New(o)
	if err != nil {
		return err
	}
	return serve(cmd, s, func() {
		addr := map[string]string{}
		for _, e := range s.Endpoints() {
			addr[e.Name] = e.Addr
		}
		mesh.UseProxy(addr["http"])
		tour(cmd.OutOrStdout(), dir, addr, mesh)
		announce(cmd.OutOrStdout(), s)
	})
}

// tour prints what to try.
func tour(w io.Writer, dir string, addr map[string]string, mesh *demo.Mesh) {
	lines := `The mesh is described by the files in
  {dir}
Edit them while requests run; a mistake is refused with its line, and what was served is served on.

Try, in another terminal:
  # a request from service to service, as a forward proxy and by Host header
  curl -x http://{http} http://reviews:9080/reviews/1
  curl -H 'Host: reviews:9080' http://{http}/reviews/1

  # route by header: jason sees v2, with stars
  curl -H 'end-user: jason' -x http://{http} http://reviews:9080/reviews/1

  # canary: 10 % of the rest see v3; then make it 50/50 in 20-reviews.yaml and count again
  for i in $(seq 200); do curl -s -x http://{http} http://reviews:9080/reviews/1; done | grep -o '"version":"v."' | sort | uniq -c

  # circuit breaking: one of the two v1 hosts fails, is ejected after 5 errors, and is back after 30 s
  curl http://127.0.0.1:{broken}/break
  for i in $(seq 40); do curl -s -o /dev/null -w '%{http_code}\n' -x http://{http} http://reviews:9080/reviews/1; done | sort | uniq -c
  curl -s http://{admin}/clusters | grep -E '\|v1\|.*health_flags'
  curl http://127.0.0.1:{broken}/mend

  # faults: 10 % of the calls to ratings wait 2 s; change it in 30-ratings.yaml
  for i in $(seq 20); do curl -s -o /dev/null -w '%{time_total}\n' -x http://{http} http://ratings:9080/ratings/1; done

  # the whole chain, three hops through the proxy
  curl -s -H 'end-user: jason' -x http://{http} http://productpage:9080/

  # metrics and state
  curl -s http://{metrics}/stats/prometheus | grep istio_requests_total
  curl -s http://{admin}/config_dump | head -40

Ctrl-C ends the demo.
`
	r := strings.NewReplacer("{dir}", dir, "{http}", addr["http"], "{admin}", addr["admin"], "{metrics}", addr["metrics"],
		"{broken}", fmt.Sprint(mesh.Port("reviews-v1-b")))
	fmt.Fprintln(w, r.Replace(lines))
}
