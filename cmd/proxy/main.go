// SPDX-License-Identifier: Apache-2.0

// Command proxy is Pillion's one binary: the standalone proxy, and the tools
// that check and translate its configuration.
package main

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"pillion/proxy/pod"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// errSilent ends the program with exitFailed when all has been said.
var errSilent = errors.New("failed")

// usageError is a mistake on the command line.
type usageError struct{ error }

func main() {
	os.Exit(execute(newRoot(), podArgs(os.Args)))
}

func execute(root *cobra.Command, args []string) int {
	root.SetArgs(args)
	noteUnknownFlags(root, args)
	cmd, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	if errors.Is(err, errSilent) {
		return exitFailed
	}
	fmt.Fprintf(root.ErrOrStderr(), "proxy: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) || !cmd.HasParent() {
		fmt.Fprintf(root.ErrOrStderr(), "Run '%s --help' for how to use it.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "proxy",
		Short: "Pillion, a sidecar data-plane proxy",
		Long: `Pillion is a sidecar data-plane proxy. Standalone, it serves a mesh from a
directory of Istio YAML, with no cluster and no root: routing, canaries,
circuit breaking, fault injection and Istio's metrics, changed live by editing
the files.

Start here:
  proxy demo                     a small mesh in one process, with lines to try
  proxy run ./mesh               serve the YAML files in ./mesh
  proxy validate ./mesh          say what is wrong with them, line by line
  proxy translate ./mesh         show the Envoy xDS that they mean
  proxy certs init ./certs       certificates for mutual TLS on this machine

In a pod that Istio injects, in the place of its container istio-proxy, it takes
that container's arguments, 'proxy sidecar …', under the name pilot-agent too.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("pillion proxy {{.Version}}" + fipsMode() + "\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newRun(), newDemo(), newValidate(), newTranslate(), newCerts(),
		newPodCommand(pod.Sidecar), newPodCommand(pod.Router), newWait(), newRequest(), newAgentVersion())
	return root
}

// fipsMode says which module does the cryptography if it is one of FIPS 140-3
// and in that mode (`make fips`).
func fipsMode() string {
	if !fips140.Enabled() {
		return ""
	}
	return " (FIPS 140-3 module " + fips140.Version() + ")"
}

// needPaths is the argument check of commands that read configuration.
func needPaths(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError{errors.New("name at least one YAML file or directory, or - for standard input")}
	}
	return nil
}
