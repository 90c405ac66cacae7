// SPDX-License-Identifier: Apache-2.0

// Command up runs an istiod without a cluster until it is interrupted, on the
// bookinfo mesh or on YAML files, which it watches.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pillion/test/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	flavour := flag.String("flavour", string(lab.Full), "full: as in production; safe: only what upstream's Envoy knows")
	offset := flag.Int("offset", 0, "is added to each of istiod's ports, for a second lab")
	mesh := flag.String("mesh", "", "file with fields of Istio's MeshConfig that go before the lab's own")
	dir := flag.String("dir", "", "folder for certificates, tokens and logs; a temporary one by default")
	tokens := flag.String("tokens", "default/bookinfo-productpage,default/bookinfo-reviews,default/bookinfo-ratings,istio-system/istio-ingressgateway-service-account", "service accounts to make tokens of, as NAMESPACE/NAME")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./test/lab/up [flags] [FILE.yaml | FOLDER]…\nWithout files it serves the bookinfo mesh.")
		flag.PrintDefaults()
	}
	flag.Parse()
	program, err := installed()
	if err != nil {
		return err
	}
	if *dir == "" {
		if *dir, err = os.MkdirTemp("", "pillion-lab"); err != nil {
			return err
		}
		defer os.RemoveAll(*dir)
	} else if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	o := lab.Options{Flavour: lab.Flavour(*flavour), Objects: lab.Bookinfo()}
	if *mesh != "" {
		text, err := os.ReadFile(*mesh)
		if err != nil {
			return err
		}
		o.Mesh = string(text)
	}
	files := &watched{paths: flag.Args(), seen: map[string]string{}}
	if len(files.paths) > 0 {
		o.Objects = nil
		changed, err := files.read()
		if err != nil {
			return err
		}
		for _, c := range changed {
			o.Objects = append(o.Objects, c.now)
		}
	}
	l, err := lab.Open(program, *dir, lab.ClusterPorts(netip.MustParseAddr("127.0.0.1"), *offset), o)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := describe(l, *dir, *tokens); err != nil {
		return err
	}
	files.follow(ctx, l)
	return nil
}

// installed returns the path of pilot-discovery.
func installed() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w; run this inside the repository", err)
	}
	program, err := lab.Program(strings.TrimSpace(string(root)), "pilot-discovery")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(program); err != nil {
		return "", fmt.Errorf("%s isn't there: make lab builds it", program)
	}
	return program, nil
}

// describe says where everything is.
func describe(l *lab.Lab, dir, tokens string) error {
	fmt.Printf(`istiod is ready, pid %d
  xDS in the clear       %s
  xDS and CA over TLS    %s (server name %s)
  root certificate       %s
  debug pages            http://%s/debug
  metrics                http://%s/metrics
  Kubernetes API         kubectl --kubeconfig %s
  log                    %s
  cluster                %s
`, l.PID(), l.Ports.XDS, l.Ports.Secure, lab.ServerName, l.RootCert(), l.Ports.HTTP, l.Ports.Monitoring, l.KubeConfig(), l.LogFile(), lab.ClusterID)
	for account := range strings.SplitSeq(tokens, ",") {
		if account == "" {
			continue
		}
		ns, name, ok := strings.Cut(account, "/")
		if !ok {
			return fmt.Errorf("-tokens: %q is not NAMESPACE/NAME", account)
		}
		path, err := l.Token(ns, name)
		if err != nil {
			return err
		}
		fmt.Printf("  token                  %s\n", path)
	}
	return nil
}

// watched are the files that the mesh is in.
type watched struct {
	paths []string
	seen  map[string]string // path → text as it was applied last
}

// change is a file that was there, is there, or both.
type change struct{ path, old, now string }

// read returns what has changed since the last time.
func (w *watched) read() ([]change, error) {
	now := map[string]string{}
	for _, path := range w.paths {
		err := filepath.WalkDir(path, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" && filepath.Ext(path) != ".yml" {
				return err
			}
			text, err := os.ReadFile(path)
			now[path] = string(text)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var all []change
	for path, text := range now {
		if w.seen[path] != text {
			all = append(all, change{path, w.seen[path], text})
		}
	}
	for path, text := range w.seen {
		if _, there := now[path]; !there {
			all = append(all, change{path, text, ""})
		}
	}
	w.seen = now
	return all, nil
}

// follow applies changes of the files until ctx ends. What a file no longer
// has is deleted.
func (w *watched) follow(ctx context.Context, l *lab.Lab) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		changed, err := w.read()
		if err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
			continue
		}
		for _, c := range changed {
			if err := l.Kube.Replace(c.old, c.now); err != nil {
				fmt.Fprintf(os.Stderr, "lab: %s: %v\n", c.path, err)
			} else {
				fmt.Println("applied", c.path)
			}
		}
	}
}
