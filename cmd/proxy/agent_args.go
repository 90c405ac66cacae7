// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// podArgs returns the arguments in one form. The webhook gives those of Istio's
// agent, whose sub-command is called proxy: `pilot-agent proxy sidecar …`. So
// the word may lead, whatever this program is called. Without a role it is a
// sidecar.
func podArgs(argv []string) []string {
	args := argv[1:]
	agent := filepath.Base(argv[0]) == "pilot-agent"
	if len(args) == 0 || args[0] != "proxy" {
		return args
	}
	args = args[1:]
	if agent && (len(args) == 0 || strings.HasPrefix(args[0], "-") && args[0] != "--help" && args[0] != "-h") {
		return append([]string{"sidecar"}, args...)
	}
	return args
}

// unknownFlags is the annotation of a command under which the flags are noted
// that it was given and doesn't know.
const unknownFlags = "unknown flags"

// noteUnknownFlags notes them where the command passes over flags that it
// doesn't know, as Istio's agent does: a newer webhook may give some.
func noteUnknownFlags(root *cobra.Command, args []string) {
	cmd, rest, err := root.Find(args)
	if err != nil || !cmd.FParseErrWhitelist.UnknownFlags {
		return
	}
	var unknown []string
	for _, a := range rest {
		if a == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !strings.HasPrefix(a, "-") || name == "" || name == "help" || name == "h" || cmd.Flag(name) != nil {
			continue
		}
		unknown = append(unknown, "--"+name)
	}
	if len(unknown) > 0 {
		cmd.Annotations = map[string]string{unknownFlags: strings.Join(unknown, " ")}
	}
}
