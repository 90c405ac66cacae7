// SPDX-License-Identifier: Apache-2.0

// Package lab runs an unmodified istiod without a cluster: Kubernetes is
// played by package kube, from YAML. A test gets one of its own by Start;
// `go run ./test/lab/up` runs one by hand.
package lab

import (
	"embed"
	"fmt"
	"io"
	"io/fs"
	"net"
	nethttp "net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"pillion/test/lab/kube"
)

// Flavour is how istiod is set up.
type Flavour string

// The flavours. Full is what Istio's installation has in production. Safe is
// the same without the four filters that only Istio's build of Envoy knows
// (istio.metadata_exchange, twice, istio.alpn and istio.stats), so that a real
// Envoy takes all of it.
const (
	Full Flavour = "full"
	Safe Flavour = "safe"
)

// ClusterID is how istiod calls the cluster that it serves: as Istio's
// installation does.
const ClusterID = "Kubernetes"

// TrustDomain is that of the mesh's identities.
const TrustDomain = "cluster.local"

// ServerName is what istiod's certificate is for.
const ServerName = "istiod.istio-system.svc"

// Ports are where istiod listens, as ADDRESS:PORT.
type Ports struct {
	XDS        string // plaintext xDS: 15010 in a cluster
	Secure     string // xDS and the CA over TLS: 15012 in a cluster
	HTTP       string // readiness and /debug: 8080 in a cluster
	Monitoring string // its own metrics: 15014 in a cluster
	Webhooks   string // injection and validation: 15017 in a cluster
}

// ClusterPorts are the ports that istiod has in a cluster, and those of
// others with an offset. Debug pages are served to loopback only.
func ClusterPorts(host netip.Addr, offset int) Ports {
	at := func(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port+offset)) }
	h := host.String()
	return Ports{XDS: at(h, 15010), Secure: at(h, 15012), HTTP: at("127.0.0.1", 8080), Monitoring: at("127.0.0.1", 15014), Webhooks: at(h, 15017)}
}

// Options say what lab is wanted.
type Options struct {
	Flavour Flavour // Full if empty
	// Mesh is YAML of Istio's MeshConfig. Its top-level fields go before the
	// lab's own.
	Mesh string
	// Env are further environment variables of istiod, as NAME=VALUE.
	Env []string
	// Objects are texts of YAML that are there when istiod starts.
	Objects []string
	// Dial is how the API forwards ports of pods; nil: it forwards none.
	Dial kube.Dialer
	// Host is the network namespace of istiod and of the Kubernetes API; nil
	// is that of this process.
	Host *Namespace
}

// Lab is a Kubernetes API and an istiod.
type Lab struct {
	Kube  *kube.Server // immutable
	Ports Ports        // immutable

	dir     string // immutable; the lab's files
	program string // immutable; the path of pilot-discovery
	o       Options
	mesh    []byte // immutable
	web     *nethttp.Server
	kubeURL string
	istiod  *process // owned by the caller of Open, Kill, Restart and Close
}

//go:embed mesh/*.yaml
var meshFiles embed.FS

// Bookinfo returns the YAML of the bookinfo mesh: its services and pods, and
// what its operators want of it (STRICT mutual TLS, reviews by weight, a
// gateway).
func Bookinfo() []string {
	paths, err := fs.Glob(meshFiles, "mesh/*.yaml")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	var all []string
	for _, path := range paths {
		text, err := meshFiles.ReadFile(path)
		if err != nil {
			panic(err) // the file is embedded
		}
		all = append(all, string(text))
	}
	return all
}

// Open starts a lab that keeps its files in dir and returns when istiod is
// ready. Close ends it. program is the path of pilot-discovery.
func Open(program, dir string, ports Ports, o Options) (*Lab, error) {
	if o.Flavour == "" {
		o.Flavour = Full
	}
	mesh, err := meshConfig(o.Flavour, o.Mesh)
	if err != nil {
		return nil, err
	}
	api, err := kube.New()
	if err != nil {
		return nil, err
	}
	api.Dial = o.Dial
	for _, text := range o.Objects {
		if err := api.Apply(text); err != nil {
			return nil, err
		}
	}
	l := &Lab{Kube: api, Ports: ports, dir: dir, program: program, o: o, mesh: mesh}
	if err := l.serveKube(); err != nil {
		return nil, err
	}
	if err := l.prepare(); err != nil {
		l.Close()
		return nil, err
	}
	if err := l.Restart(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// serveKube starts the API on a free port.
func (l *Lab) serveKube() error {
	var ln net.Listener
	err := l.o.Host.Do(func() (err error) {
		ln, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return err
	}
	l.kubeURL = "http://" + ln.Addr().String()
	l.web = &nethttp.Server{Handler: l.Kube}
	go func() { _ = l.web.Serve(ln) }() // it ends when Close closes it
	return nil
}

// Close ends istiod and the API. The files stay.
func (l *Lab) Close() {
	l.Kill()
	_ = l.web.Close() // nothing is left that could be lost
}

// RootCert is the path of the mesh's root certificate: what istiod's own
// certificate, and those that it signs, lead to.
func (l *Lab) RootCert() string { return filepath.Join(l.dir, "ca", rootCertFile) }

// KubeConfig is the path of a kubeconfig for the API.
func (l *Lab) KubeConfig() string { return filepath.Join(l.dir, "kubeconfig") }

// KubeURL is where the API is served; /openid/v1/jwks below it has the keys of
// its tokens.
func (l *Lab) KubeURL() string { return l.kubeURL }

// Token writes a token of a service account for istiod, and returns the path
// of its file. The account is made if it isn't there.
func (l *Lab) Token(ns, account string) (string, error) {
	token, err := l.Mint(ns, account, kube.TokenOptions{Audiences: []string{"istio-ca"}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(l.dir, "token-"+ns+"-"+account)
	return path, os.WriteFile(path, []byte(token), 0o644)
}

// Mint is Token for any kind of token, and returns the token itself.
func (l *Lab) Mint(ns, account string, o kube.TokenOptions) (string, error) {
	token, err := l.Kube.Token(ns, account, o)
	if kube.IsNotFound(err) && o.Pod == "" {
		if err = l.Kube.Apply(fmt.Sprintf("{apiVersion: v1, kind: ServiceAccount, metadata: {name: %q, namespace: %q}}", account, ns)); err != nil {
			return "", err
		}
		token, err = l.Kube.Token(ns, account, o)
	}
	return token, err
}

// Fetch gets a page of istiod's HTTP port, like /debug/syncz.
func (l *Lab) Fetch(path string) (string, error) {
	client := nethttp.Client{Transport: &nethttp.Transport{DialContext: l.o.Host.DialContext, DisableKeepAlives: true}, Timeout: fetchTimeout}
	resp, err := client.Get("http://" + l.Ports.HTTP + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != nethttp.StatusOK {
		return "", fmt.Errorf("GET %s: %s: %s", path, resp.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}
