// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"pillion/proxy/pod"
)

// newAgentVersion is `pilot-agent version`.
func newAgentVersion() *cobra.Command {
	var short bool
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version, and the one of Istio's proxy that istiod is told",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			// In the form of istio.io/istio/pkg/version, which tools read.
			client := map[string]string{"version": version, "golang_version": runtime.Version(), "status": "pillion", "istio_version": pod.IstioVersion}
			text, err := json.MarshalIndent(map[string]any{"clientVersion": client}, "", "  ")
			if err != nil {
				return err
			}
			switch output {
			case "json":
				_, err = fmt.Fprintln(out, string(text))
			case "yaml":
				if text, err = yaml.JSONToYAML(text); err == nil {
					_, err = out.Write(text)
				}
			case "":
				if short {
					_, err = fmt.Fprintln(out, version)
				} else {
					_, err = fmt.Fprintf(out, "client version: pillion proxy %s%s, %s, in the place of Istio's proxy %s\n", version, fipsMode(), runtime.Version(), pod.IstioVersion)
				}
			default:
				err = usageError{fmt.Errorf("--output: %q is neither json nor yaml", output)}
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&short, "short", "s", false, "the number alone")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return cmd
}
