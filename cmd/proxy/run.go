// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"pillion/proxy"
)

// runFlags are the flags of commands that serve.
type runFlags struct {
	identityFlags
	http, admin, metrics, logLevel string
	listen                         []string
	drain, detection               time.Duration
}

func (f *runFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.http, "http", "127.0.0.1:15080", "address of the listener for every mesh service, as a forward proxy\n(curl -x) and by Host header; empty for none")
	fs.StringArrayVar(&f.listen, "listen", nil, "HOST:PORT=ADDRESS:PORT: open a port of a service at an address of this\nmachine, for TCP, TLS and whatever else; may be repeated. A service whose\nown address is in 127.0.0.0/8 is opened there without")
	fs.DurationVar(&f.detection, "protocol-detection-timeout", 5*time.Second, "how long a connection to a port whose protocol isn't declared may take\nto show what it speaks before it is passed on as TCP")
	fs.StringVar(&f.admin, "admin", "127.0.0.1:15000", "address of the admin endpoint; empty for none")
	fs.StringVar(&f.metrics, "metrics", "127.0.0.1:15090", "address of the Prometheus endpoint /stats/prometheus; empty for none")
	f.identityFlags.register(fs)
	fs.DurationVar(&f.drain, "drain-time", 5*time.Second, "how long exchanges under way may go on after SIGTERM")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error; also changed by POST /logging?level=")
}

func (f *runFlags) proxyOptions(stderr io.Writer) (proxy.Options, error) {
	o := proxy.Options{HTTPAddr: f.http, Listen: f.listen, DetectionTimeout: f.detection, AdminAddr: f.admin, MetricsAddr: f.metrics, DrainTime: f.drain,
		Version: version, Stdin: os.Stdin, Level: new(slog.LevelVar)}
	if err := f.identityFlags.options(&o); err != nil {
		return o, err
	}
	if err := o.Level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return o, usageError{fmt.Errorf("--log-level: %q is none of debug, info, warn, error", f.logLevel)}
	}
	o.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: o.Level}))
	return o, nil
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] PATH…",
		Short: "Serve a mesh from YAML files",
		Long: `Serve the mesh that the Istio and Kubernetes resources in PATH describe. A PATH
is a YAML file, a directory, which is read with all below it, or - for standard
input.

The files are watched. A change is applied as a whole within 200 ms and without
losing a request; a change with an error in it is refused as a whole, named with
file and line, and what was served before is served on.

Gateway resources open their own ports, and so do services with an address in
127.0.0.0/8. Every other HTTP service is reached through --http:
  curl -x http://127.0.0.1:15080 http://reviews:9080/
  curl -H 'Host: reviews:9080' http://127.0.0.1:15080/
and ports that carry TCP or TLS through --listen:
  proxy run --listen db:5432=127.0.0.1:5432 ./mesh`,
		Example: `  proxy run ./mesh
  proxy run --namespace shop --labels app=web,version=v1 services.yaml routes/
  curl -s 127.0.0.1:15000/clusters    # hosts, with what was ejected
  curl -s 127.0.0.1:15090/stats/prometheus | grep istio_requests_total`,
		Args: needPaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.proxyOptions(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			o.Paths = args
			s, err := proxy.New(o)
			if err != nil {
				return err
			}
			return serve(cmd, s, func() { announce(cmd.OutOrStdout(), s) })
		},
	}
	f.register(cmd)
	return cmd
}

// serve starts s, calls ready, and runs it until the first signal; a second
// one ends the drain early.
func serve(cmd *cobra.Command, s *proxy.Server, ready func()) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	if err := s.Start(); err != nil {
		return explainStart(cmd, err)
	}
	ready()
	select {
	case <-signals:
	case <-s.Quit():
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	s.Shutdown(ctx)
	return nil
}

// explainStart prints the problems of a configuration that can't be served.
func explainStart(cmd *cobra.Command, err error) error {
	if p, ok := err.(*proxy.ConfigError); ok {
		printProblems(cmd.ErrOrStderr(), p.Problems)
		return fmt.Errorf("nothing is served: %s", p.Summary())
	}
	return err
}

// announce prints where the proxy can be reached.
func announce(w io.Writer, s *proxy.Server) {
	var b strings.Builder
	b.WriteString("ready:")
	for _, e := range s.Endpoints() {
		fmt.Fprintf(&b, " %s %s", e.Name, e.Addr)
	}
	fmt.Fprintln(w, b.String())
}
