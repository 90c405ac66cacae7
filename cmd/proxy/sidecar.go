// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pillion/proxy"
	"pillion/proxy/pod"
)

// podFlags are those that the webhook gives, under Istio's names.
type podFlags struct {
	domain, meshConfig, serviceCluster, outlierLog, root string
	proxyLevel, componentLevel, agentLevel               string
	logJSON, profiling                                   bool
	concurrency, stsPort                                 int
	template, tokenPlugin                                string
}

func (f *podFlags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVar(&f.domain, "domain", "", "DNS domain of the pod; by default $POD_NAMESPACE.svc.cluster.local")
	fs.StringVar(&f.proxyLevel, "proxyLogLevel", "warning", "level of the proxy's log: trace, debug, info, warning, error, critical or off,\nor a mix, info,misc:error; POST /logging?level= of the admin endpoint changes it")
	fs.StringVar(&f.componentLevel, "proxyComponentLogLevel", "", "levels of single loggers, as config:debug,upstream:info; POST /logging?NAME= changes one")
	fs.StringVar(&f.agentLevel, "log_output_level", "default:info", "level of the lines about start, probes and end")
	fs.BoolVar(&f.logJSON, "log_as_json", false, "log as JSON")
	fs.StringVar(&f.meshConfig, "meshConfig", "./etc/istio/config/mesh", "file of Istio's MeshConfig; its defaultConfig is heeded. It need not be there")
	fs.StringVar(&f.serviceCluster, "serviceCluster", "istio-proxy", "name of the workload where ProxyConfig has none")
	fs.IntVar(&f.concurrency, "concurrency", 0, "threads; concurrency of ProxyConfig is the newer way")
	fs.StringVar(&f.outlierLog, "outlierLogPath", "", "told to the control plane; there is no such log")
	fs.IntVar(&f.stsPort, "stsPort", 0, "accepted; tokens aren't exchanged")
	fs.StringVar(&f.template, "templateFile", "", "accepted; there is no bootstrap")
	fs.StringVar(&f.tokenPlugin, "tokenManagerPlugin", "", "accepted; tokens aren't exchanged")
	fs.BoolVar(&f.profiling, "profiling", true, "serve /debug/pprof on the status port, to the pod itself")
	fs.StringVar(&f.root, "root", "/", "folder that stands for / in the path of every file that is read")
}

const podHelp = `Be the container istio-proxy of a pod: take the arguments, the environment and the
files that Istio's webhook gives it, be driven by istiod, and serve what the
kubelet, Prometheus and istioctl ask for:

  15000 admin, on loopback    15001, 15006 captured traffic, as istiod says
  15020 /healthz/ready, /stats/prometheus (the application's metrics too),
        /app-health/… (its probes), POST /drain and /quitquitquit
  15021 /healthz/ready        15090 /stats/prometheus

The environment may be read in docs/pod.md. A value that can't be used is refused
with its name and what to do; flags that aren't known are named in the log and
passed over. Ports other than those: proxyAdminPort and statusPort in PROXY_CONFIG,
ENVOY_STATUS_PORT, ENVOY_PROMETHEUS_PORT.

Why isn't it ready?  curl 'localhost:15021/healthz/ready?verbose'`

func newPodCommand(role pod.Role) *cobra.Command {
	var f podFlags
	what := map[pod.Role]string{pod.Sidecar: "Serve beside a workload in a pod, driven by istiod", pod.Router: "Serve as a gateway in a pod, driven by istiod"}
	cmd := &cobra.Command{
		Use:   string(role) + " [flags]",
		Short: what[role],
		Long:  podHelp,
		Example: `  proxy ` + string(role) + ` --domain $(POD_NAMESPACE).svc.cluster.local --proxyLogLevel=warning
  pilot-agent proxy ` + string(role) + ` --log_output_level=default:info`,
		Args:               func(*cobra.Command, []string) error { return nil }, // values of flags that aren't known may be left over
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPod(cmd, role, &f, args)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

func runPod(cmd *cobra.Command, role pod.Role, f *podFlags, args []string) error {
	stderr := cmd.ErrOrStderr()
	levels, unknownLoggers, err := proxyLevels(f.proxyLevel, f.componentLevel)
	if err != nil {
		return err
	}
	agentLevel, err := agentLevels(f.agentLevel, levels)
	if err != nil {
		return err
	}
	log := newLogger(stderr, agentLevel, f.logJSON)
	p, err := pod.Read(pod.Input{Role: role, Environ: os.Environ(), Root: f.root, Domain: f.domain, MeshConfigFile: f.meshConfig,
		ServiceCluster: f.serviceCluster, Concurrency: f.concurrency, OutlierLogPath: f.outlierLog, Version: version})
	if err != nil {
		return refusePod(stderr, err)
	}
	for _, w := range p.Warnings {
		log.Warn(w)
	}
	if u := cmd.Annotations[unknownFlags]; u != "" {
		log.Warn("flags that aren't known are passed over", "flags", u)
	}
	if len(unknownLoggers) > 0 {
		log.Warn("there are no loggers of these names", "names", unknownLoggers)
	}
	if len(args) > 0 {
		log.Warn("arguments are passed over", "arguments", args)
	}
	if p.Workers > 0 {
		runtime.GOMAXPROCS(p.Workers)
	}
	limitMemory(log, memlimit.FromCgroup)
	o, err := podOptions(cmd.Context(), p, f.root)
	if err != nil {
		return err
	}
	log.Info("the proxy of a pod", "node", p.Node.GetId(), "control plane", o.Discovery.Address, "certificate from", certificateFrom(&o.Identity), "version", version)
	o.Version, o.Levels, o.Logger = version, levels, newProxyLogger(stderr, levels, f.logJSON)
	s, err := proxy.New(o)
	if err != nil {
		return err
	}
	return servePod(cmd, s, p, f.profiling, log)
}

// refusePod prints each thing that can't be used on a line of its own.
func refusePod(w io.Writer, err error) error {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	for _, e := range all {
		fmt.Fprintln(w, e)
	}
	what := "value"
	if len(all) > 1 {
		what = "values"
	}
	return fmt.Errorf("nothing is served: the pod gives the container %d %s that can't be used", len(all), what)
}

// podOptions says what the proxy is to be.
func podOptions(ctx context.Context, p *pod.Pod, root string) (proxy.Options, error) {
	local := "127.0.0.1"
	if onlyIPv6(p.IPs) {
		local = "::1"
	}
	metrics := ""
	if p.Ports.LocalMetrics {
		metrics = local
	}
	o := proxy.Options{
		AdminAddr: joinPort(local, p.Ports.Admin), MetricsAddr: joinPort(metrics, p.Ports.Metrics),
		Namespace: p.Namespace, ServiceAccount: p.ServiceAccount, Workload: p.Workload, Labels: p.Labels,
		DrainTime: p.Drain.Duration, Stats: p.Stats,
		Discovery: &proxy.Discovery{
			Address: p.Discovery.Address, Plaintext: p.Discovery.Plaintext, RootFile: p.Discovery.RootFile, ServerName: p.Discovery.ServerName,
			TokenFile: p.Discovery.TokenFile, ClusterID: p.ClusterID, Headers: p.Discovery.Headers,
			StateOfTheWorld: p.Discovery.StateOfTheWorld, Node: p.Node, NameTable: p.NameTable,
		},
	}
	if z := p.Zipkin; z != nil {
		o.Discovery.Zipkin = &proxy.Zipkin{Host: z.Host, Port: z.Port, IPv6: onlyIPv6(p.IPs)}
	}
	// The folder is in memory and lives as long as the pod, so that a container that
	// is started again serves before istiod has answered.
	dir := filepath.Join(root, p.Config.GetConfigPath())
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		o.Discovery.Cache = filepath.Join(dir, "pillion")
	}
	var err error
	o.Identity, err = podIdentity(ctx, p)
	return o, err
}

// podIdentity chooses where the certificate comes from.
func podIdentity(ctx context.Context, p *pod.Pod) (proxy.Identity, error) {
	from := p.Identity
	choice, err := proxy.ChooseIdentity(ctx, proxy.IdentityPlaces{SocketDir: from.SocketDir, SocketFile: from.SocketFile,
		CredentialDirs: from.CredentialDirs, CA: from.CA}, socketAnswers)
	if err != nil {
		return proxy.Identity{}, err
	}
	q := from.Request
	id := proxy.Identity{SDS: choice.SDS, Files: proxy.CertFiles{Chain: choice.Chain, Key: choice.Key, Root: choice.Root}}
	if choice.CA != "" {
		id.ID, id.CA, id.CARoot, id.Token = q.ID, choice.CA, q.RootFile, q.TokenFile
		id.Request = proxy.CARequest{ServerName: q.ServerName, ClusterID: p.ClusterID, Headers: q.Headers, ECDSA: q.ECDSA, RSABits: q.RSABits,
			PKCS8: q.PKCS8, TTL: q.TTL, GraceRatio: q.GraceRatio, GraceJitter: q.GraceJitter, OutputDir: q.OutputDir, CertSigner: q.CertSigner}
	}
	return id, nil
}

// certificateFrom says where an identity comes from.
func certificateFrom(id *proxy.Identity) string {
	switch {
	case id.SDS != "":
		return "SDS at " + id.SDS
	case id.CA != "":
		return "the CA " + id.CA
	}
	return "the file " + id.Files.Chain
}

// socketAnswers tells whether a server listens at a Unix socket.
func socketAnswers(ctx context.Context, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func onlyIPv6(ips []string) bool {
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err != nil || a.Is4() {
			return false
		}
	}
	return len(ips) > 0
}

func joinPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// servePod runs s until it is told to end. The status ports are there from the
// first moment to the last: the kubelet asks them all the time.
func servePod(cmd *cobra.Command, s *proxy.Server, p *pod.Pod, profiling bool, log *slog.Logger) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	life := pod.NewLifecycle(p, s, log)
	closeStatus, err := openStatus(s, p, life, profiling, log)
	if err != nil {
		return err
	}
	defer closeStatus()
	// ending is done when the first signal or /quitquitquit came; hurry at the second.
	ending, end := context.WithCancel(context.Background())
	defer end()
	hurry, hasten := context.WithCancel(context.Background())
	defer hasten()
	go func() {
		select {
		case sig := <-signals:
			log.Info("told to end", "signal", sig.String())
		case <-life.Quit():
		case <-s.Quit():
			life.QuitNow()
		case <-hurry.Done():
			return
		}
		s.StopWaiting()
		end()
		select {
		case <-signals:
			hasten()
		case <-s.Quit():
			life.QuitNow()
		case <-hurry.Done():
		}
	}()
	if err := s.Start(); err != nil {
		return explainStart(cmd, err)
	}
	for _, e := range s.Endpoints() {
		log.Info("open", "what", e.Name, "address", e.Addr)
	}
	<-ending.Done()
	life.Terminate(hurry)
	// The drain is over: what is open now is cut off.
	hasten()
	s.Shutdown(hurry)
	return nil
}

// openStatus opens the status ports.
func openStatus(s *proxy.Server, p *pod.Pod, life *pod.Lifecycle, profiling bool, log *slog.Logger) (closeAll func(), err error) {
	status, err := pod.NewStatus(pod.StatusOptions{Pod: p, Proxy: s, Lifecycle: life, Profiling: profiling, Started: time.Now(), Logger: log})
	if err != nil {
		return nil, err
	}
	var open []*pod.Server
	closeAll = func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for _, o := range open {
			_ = o.Close(ctx) // the process ends
		}
	}
	probe, err := pod.Listen(joinPort("", p.Ports.Probe), status.ProbeHandler(), log)
	if err != nil {
		return nil, err
	}
	open = append(open, probe)
	log.Info("open", "what", "probes", "address", probe.Addr())
	if p.Ports.Status == 0 {
		return closeAll, nil
	}
	full, err := pod.Listen(joinPort("", p.Ports.Status), status.Handler(), log)
	if err != nil {
		closeAll()
		return nil, err
	}
	open = append(open, full)
	log.Info("open", "what", "status", "address", full.Addr())
	return closeAll, nil
}
