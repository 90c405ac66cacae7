// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"pillion/proxy"
)

// identityFlags say which workload the proxy stands beside.
type identityFlags struct {
	namespace, serviceAccount, workload, labels, certs string
	strict                                             bool
}

func (f *identityFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.namespace, "namespace", "default", "namespace of the workload beside the proxy: short host names and\nnamespace-wide resources are looked up in it")
	fs.StringVar(&f.labels, "labels", "", "labels of that workload, k=v,k=v: workloadSelector and sourceLabels see them")
	fs.StringVar(&f.serviceAccount, "service-account", "default", "service account of that workload")
	fs.StringVar(&f.workload, "workload", "", "name of that workload, source_workload in metrics")
	fs.StringVar(&f.certs, "certs", "", "folder with this workload's cert-chain.pem, key.pem and root-cert.pem for mutual\nTLS, reloaded when they change; 'proxy certs init' makes them")
	fs.BoolVar(&f.strict, "strict", false, "refuse unknown fields and kinds instead of warning about them")
}

// listenFlags say where services are reached.
type listenFlags struct {
	http, meshConfig string
	listen, inbound  []string
	detection        time.Duration
}

func (f *listenFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.http, "http", "127.0.0.1:15080", "address of the listener for every mesh service, as a forward proxy\n(curl -x) and by Host header; empty for none")
	fs.StringArrayVar(&f.listen, "listen", nil, "HOST:PORT=ADDRESS:PORT: open that port of the service HOST at an address\nof this machine, whatever it carries, db:5432=127.0.0.1:5432; or \"all\": open\neach port that carries TCP, TLS or what isn't declared at 127.0.0.1, under\nits own number. May be repeated; what is named goes before \"all\" and before\na service's own address, which is opened if it is in 127.0.0.0/8")
	fs.StringArrayVar(&f.inbound, "inbound", nil, "ADDRESS:PORT=APPADDRESS:APPPORT: put the proxy before a port of its workload,\nwith the mesh's policies and mutual TLS, 127.0.0.1:18080=127.0.0.1:8080; or\nbefore a Unix socket, 127.0.0.1:18080=unix:///run/app.sock. The port speaks\nwhat the Service says that selects --labels and has APPPORT for targetPort.\nPolicies know it by APPPORT. May be repeated")
	fs.StringVar(&f.meshConfig, "mesh-config", "", "file with the mesh's settings, Istio's MeshConfig: trustDomain and its\naliases, pathNormalization, extensionProviders and others. It is watched")
	fs.DurationVar(&f.detection, "protocol-detection-timeout", 5*time.Second, "how long a connection to a port whose protocol isn't declared may take\nto show what it speaks before it is passed on as TCP")
}

func (f *listenFlags) options(o *proxy.Options) {
	o.HTTPAddr, o.Listen, o.DetectionTimeout = f.http, f.listen, f.detection
	o.Inbound, o.MeshConfig = f.inbound, f.meshConfig
}

// options fills the options that the flags stand for.
func (f *identityFlags) options(o *proxy.Options) error {
	o.Namespace, o.ServiceAccount, o.Workload, o.Strict = f.namespace, f.serviceAccount, f.workload, f.strict
	o.CertsDir = f.certs
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
