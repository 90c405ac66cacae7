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

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"pillion/proxy"
	"pillion/proxy/admin"
)

// runFlags are the flags of commands that serve.
type runFlags struct {
	identityFlags
	listenFlags
	sourceFlags
	admin, metrics, logLevel string
	drain                    time.Duration
}

func (f *runFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	f.listenFlags.register(fs)
	fs.StringVar(&f.admin, "admin", "127.0.0.1:15000", "address of the admin endpoint; empty for none")
	fs.StringVar(&f.metrics, "metrics", "127.0.0.1:15090", "address of the Prometheus endpoint /stats/prometheus; empty for none")
	f.identityFlags.register(fs)
	f.sourceFlags.register(fs)
	fs.DurationVar(&f.drain, "drain-time", 5*time.Second, "how long exchanges under way may go on after SIGTERM")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error; also changed by POST /logging?level=")
}

func (f *runFlags) proxyOptions(stderr io.Writer) (proxy.Options, error) {
	o := proxy.Options{AdminAddr: f.admin, MetricsAddr: f.metrics, DrainTime: f.drain,
		Version: version, Stdin: os.Stdin}
	f.listenFlags.options(&o)
	if err := f.identityFlags.options(&o); err != nil {
		return o, err
	}
	var err error
	if o.Identity, err = f.sourceFlags.options(f.certs); err != nil {
		return o, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return o, usageError{fmt.Errorf("--log-level: %q is none of debug, info, warn, error", f.logLevel)}
	}
	o.Levels = admin.NewLevels(level)
	o.Logger = newProxyLogger(stderr, o.Levels, false)
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

HTTP services are reached through --http, all at one address:
  curl -x http://127.0.0.1:15080 http://reviews:9080/
  curl -H 'Host: reviews:9080' http://127.0.0.1:15080/
What carries TCP or TLS names no service, so that each port needs an address of its
own. It has one if the service's own address is in 127.0.0.0/8 (spec.addresses), if a
Sidecar binds the port there, or by --listen:
  proxy run --listen db:5432=127.0.0.1:5432 ./mesh
  proxy run --listen all ./mesh
A workload is put behind the proxy by --inbound. Who may call it, and how, is for
AuthorizationPolicy, RequestAuthentication and PeerAuthentication to say:
  proxy run --labels app=reviews --inbound 127.0.0.1:19080=127.0.0.1:9080 ./mesh
Gateway resources open their own ports. The first line of the output, and /listeners
of the admin endpoint, say what is open where.`,
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
			limitMemory(o.Logger, memlimit.FromCgroup)
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
	started := make(chan struct{})
	go func() {
		select {
		case first := <-signals:
			s.StopWaiting()
			signals <- first // it ends the proxy once it has started
		case <-started:
		}
	}()
	err := s.Start()
	close(started)
	if err != nil {
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
