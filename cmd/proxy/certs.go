// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pillion/proxy/tls/localca"
)

func newCerts() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Make certificates for mutual TLS on one machine",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q; there is 'proxy certs init'", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCertsInit())
	return cmd
}

func newCertsInit() *cobra.Command {
	var trustDomain string
	var workloads []string
	cmd := &cobra.Command{
		Use:   "init [flags] DIR",
		Short: "Make a local CA and workload certificates",
		Long: `Make a certificate authority in DIR, unless there is one, and a new certificate for
each workload. A workload is its namespace and its service account; its identity is
  spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT
and its files, which are what --certs of 'proxy run' takes, are
  DIR/NAMESPACE/SERVICE-ACCOUNT/cert-chain.pem   its certificate
  DIR/NAMESPACE/SERVICE-ACCOUNT/key.pem          its key
  DIR/NAMESPACE/SERVICE-ACCOUNT/root-cert.pem    what other workloads are checked against
Run it again to renew certificates or to add workloads: proxies that run take the
new files at once, and connections that are open stay open.

The key of the CA lies in DIR/root-key.pem, so this is for one machine and for tests.`,
		Example: `  proxy certs init ./certs --workload shop/web --workload shop/db
  proxy run --certs ./certs/shop/web --namespace shop --service-account web ./mesh`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one folder for the CA and the certificates, not %d", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return certsInit(cmd, args[0], trustDomain, workloads)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&trustDomain, "trust-domain", "", "trust domain of the identities; cluster.local, or that of the CA which is there")
	cmd.Flags().StringArrayVar(&workloads, "workload", []string{"default/default"}, "NAMESPACE/SERVICE-ACCOUNT to make a certificate for; may be repeated")
	return cmd
}

func certsInit(cmd *cobra.Command, dir, trustDomain string, workloads []string) error {
	type workload struct{ namespace, account string }
	var all []workload
	for _, w := range workloads {
		ns, sa, ok := strings.Cut(w, "/")
		if !ok || !goodName(ns) || !goodName(sa) {
			return usageError{fmt.Errorf("--workload: %q is not NAMESPACE/SERVICE-ACCOUNT, as in shop/web", w)}
		}
		all = append(all, workload{ns, sa})
	}
	ca, made, err := localca.Open(dir, trustDomain)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if made {
		fmt.Fprintf(out, "new CA for the trust domain %s in %s\n", ca.TrustDomain(), dir)
	}
	for _, w := range all {
		path, err := ca.Write(dir, w.namespace, w.account)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s in %s\n", ca.ID(w.namespace, w.account), path)
	}
	return nil
}

// goodName tells whether a name can be a namespace or a service account, and
// so a folder: those of Kubernetes are DNS names (RFC 1123).
func goodName(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || 'z' < c) && (c < '0' || '9' < c) && c != '-' && c != '.' {
			return false
		}
	}
	return true
}
