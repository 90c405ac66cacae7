// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"pillion/proxy"
	"pillion/proxy/istio"
	"pillion/proxy/istio/source"
)

func newValidate() *cobra.Command {
	var f identityFlags
	var l listenFlags
	cmd := &cobra.Command{
		Use:   "validate [flags] PATH…",
		Short: "Say what is wrong with configuration, line by line",
		Long: `Read, check and compile the configuration in PATH as 'proxy run' would, and
print every error and warning as
  file:line: kind/namespace/name: field: reason
The exit code is 1 if there is any error.`,
		Args: needPaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			o := proxy.Options{Paths: args, Stdin: cmd.InOrStdin()}
			l.options(&o)
			if err := f.options(&o); err != nil {
				return err
			}
			c := proxy.Check(o)
			printProblems(cmd.ErrOrStderr(), c.Problems)
			if c.Failed() {
				return errSilent
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d resources are good\n", c.Objects)
			return nil
		},
	}
	cmd.Flags().SortFlags = false
	l.register(cmd.Flags())
	f.register(cmd.Flags())
	return cmd
}

func newTranslate() *cobra.Command {
	var f identityFlags
	var l listenFlags
	var admin, output string
	cmd := &cobra.Command{
		Use:   "translate [flags] PATH…",
		Short: "Show the Envoy xDS that configuration means",
		Long: `Translate the configuration in PATH into the xDS resources that istiod would
send, and print them as JSON. With '-o envoy' print a bootstrap that an unmodified
Envoy runs:
  proxy translate -o envoy ./mesh > envoy.json && envoy -c envoy.json`,
		Args: needPaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			o := proxy.Options{Paths: args, Stdin: cmd.InOrStdin()}
			l.options(&o)
			if err := f.options(&o); err != nil {
				return err
			}
			if output != "xds" && output != "envoy" {
				return usageError{fmt.Errorf("-o: %q is neither xds nor envoy", output)}
			}
			c := proxy.Check(o)
			printProblems(cmd.ErrOrStderr(), c.Problems)
			if c.Failed() {
				return errSilent
			}
			out, err := render(c.Resources, output, admin)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(append(out, '\n'))
			return err
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&output, "output", "o", "xds", "xds: the resources; envoy: a bootstrap for a real Envoy")
	l.register(fs)
	fs.StringVar(&admin, "admin", "127.0.0.1:15000", "with -o envoy: address of Envoy's admin endpoint")
	f.register(fs)
	return cmd
}

func render(r *istio.Resources, output, admin string) ([]byte, error) {
	if output != "envoy" {
		return r.JSON()
	}
	b, err := istio.EnvoyBootstrap(r, admin)
	if err != nil {
		return nil, err
	}
	return istio.MarshalJSON(b)
}

func printProblems(w io.Writer, ps []source.Problem) {
	for _, p := range ps {
		if p.Warning {
			fmt.Fprintf(w, "warning: %s\n", p)
		} else {
			fmt.Fprintf(w, "error: %s\n", p)
		}
	}
}
