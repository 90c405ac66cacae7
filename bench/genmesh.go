// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"pillion/bench/mesh"
)

const genmeshHead = `Writes the Istio YAML of a generated mesh into DIR: a ServiceEntry, a
VirtualService and a DestinationRule for each service, one file per service.
The same arguments always give the same files.

  go run ./bench genmesh [flags] DIR
`

// genmesh is the sub-command of that name.
func genmesh(args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("genmesh", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	n := f.Int("n", 1000, "number of services")
	subsets := f.Bool("subsets", false, "give each service two subsets and a route by header")
	v1 := f.String("v1", "127.0.0.1:19081", "`ADDRESS:PORT` of the endpoint, or of subset v1's")
	v2 := f.String("v2", "127.0.0.1:19083", "`ADDRESS:PORT` of subset v2's endpoint")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stderr, genmeshHead+"\nFlags:\n")
		f.SetOutput(stderr)
		f.PrintDefaults()
		return err
	} else if err != nil {
		return usagef("genmesh: %v", err)
	}
	if f.NArg() != 1 {
		return usagef("genmesh: name one directory")
	}
	if *n < 1 {
		return usagef("genmesh: -n is %d; it must be at least 1", *n)
	}
	m := mesh.New(*n, *subsets)
	if err := m.Write(f.Arg(0), *v1, *v2); err != nil {
		return fmt.Errorf("genmesh: %w", err)
	}
	fmt.Fprintf(stdout, "%d services are in %s; the last one is %s\n", *n, f.Arg(0), m.Last().Authority())
	return nil
}
