// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"pillion/proxy"
)

// identityFlags say which workload the proxy stands beside.
type identityFlags struct {
	namespace, serviceAccount, workload, labels string
	strict                                      bool
}

func (f *identityFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.namespace, "namespace", "default", "namespace of the workload beside the proxy: short host names and\nnamespace-wide resources are looked up in it")
	fs.StringVar(&f.labels, "labels", "", "labels of that workload, k=v,k=v: workloadSelector and sourceLabels see them")
	fs.StringVar(&f.serviceAccount, "service-account", "default", "service account of that workload")
	fs.StringVar(&f.workload, "workload", "", "name of that workload, source_workload in metrics")
	fs.BoolVar(&f.strict, "strict", false, "refuse unknown fields and kinds instead of warning about them")
}

// options fills the options that the flags stand for.
func (f *identityFlags) options(o *proxy.Options) error {
	o.Namespace, o.ServiceAccount, o.Workload, o.Strict = f.namespace, f.serviceAccount, f.workload, f.strict
	if f.labels == "" {
		return nil
	}
	o.Labels = map[string]string{}
	for _, kv := range strings.Split(f.labels, ",") {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return usageError{fmt.Errorf("--labels: %q is not key=value", kv)}
		}
		o.Labels[k] = v
	}
	return nil
}
