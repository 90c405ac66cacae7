// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"pillion/proxy"
)

// sourceFlags say where the workload's certificate comes from, other than from
// files.
type sourceFlags struct{ id, workloadAPI, sds, ca, caRoot, token string }

func (f *sourceFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.workloadAPI, "workload-api", "", "unix:PATH: socket of a SPIFFE Workload API that gives the certificate instead")
	fs.StringVar(&f.sds, "sds", "", "unix:PATH: socket of a server of Envoy's SDS that gives it (secrets default and ROOTCA)")
	fs.StringVar(&f.ca, "ca", "", "HOST:PORT of istiod, or of another CA that speaks Istio's protocol, that signs it.\nPort 15010 is spoken to in the clear")
	fs.StringVar(&f.caRoot, "ca-root", "", "file with what the CA's own certificate has to lead to; the machine's anchors by default")
	fs.StringVar(&f.token, "token", "", "file with the token that the CA knows the workload by, read anew each time")
	fs.StringVar(&f.id, "identity", "", "SPIFFE ID that the certificate has to be for; by default what the source gives,\nand of --ca spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")
}

func (f *sourceFlags) options(certs string) (id proxy.Identity, err error) {
	if id.WorkloadAPI, err = socket("--workload-api", f.workloadAPI); err != nil {
		return id, err
	}
	if id.SDS, err = socket("--sds", f.sds); err != nil {
		return id, err
	}
	n := 0
	for _, v := range []string{certs, f.workloadAPI, f.sds, f.ca} {
		if v != "" {
			n++
		}
	}
	if n > 1 {
		return id, usageError{errors.New("--certs, --workload-api, --sds, --ca: the certificate comes from one of them")}
	}
	if f.ca == "" && (f.caRoot != "" || f.token != "") {
		return id, usageError{errors.New("--ca-root and --token: they go with --ca")}
	}
	id.ID, id.CA, id.CARoot, id.Token = f.id, f.ca, f.caRoot, f.token
	return id, nil
}

// socket returns the path of a socket that is written as unix:PATH, or, as
// the SPIFFE standard has it, as unix://PATH.
func socket(flag, v string) (string, error) {
	if v == "" {
		return "", nil
	}
	path, ok := strings.CutPrefix(v, "unix:")
	path = strings.TrimPrefix(path, "//")
	if !ok || path == "" {
		return "", usageError{fmt.Errorf("%s: %q is not unix:PATH", flag, v)}
	}
	return path, nil
}
