// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// IdentityPlaces are where a sidecar that Istio injects finds its identity.
// The zero value of a place leaves it out.
type IdentityPlaces struct {
	SocketDir  string // of a foreign SDS server, as SPIRE's driver mounts it
	SocketFile string // its name in there; empty: "socket"
	// CredentialDirs are looked into, in this order, for files of certificates.
	CredentialDirs []string
	CA             string // HOST:PORT
}

// InjectedPlaces are the places in an injected pod (istio.io/istio/pkg/security).
func InjectedPlaces(ca string) IdentityPlaces {
	return IdentityPlaces{
		SocketDir:      "/var/run/secrets/workload-spiffe-uds",
		CredentialDirs: []string{"/var/run/secrets/workload-spiffe-credentials", "/etc/certs"},
		CA:             ca,
	}
}

// IdentityChoice is where an identity comes from: one of an SDS server's
// socket, files, or a CA.
type IdentityChoice struct {
	SDS              string
	Chain, Key, Root string
	CA               string
}

// credentialNames are the names that files of certificates have: Istio's, and
// those of GKE's driver.
var credentialNames = [][3]string{
	{"cert-chain.pem", "key.pem", "root-cert.pem"},
	{"certificates.pem", "private_key.pem", "ca_certificates.pem"},
}

// ChooseIdentity takes the first of an SDS server that answers, files that are
// there, and a CA. answers tells whether a server listens at a socket. A
// socket that was named by hand and isn't there is an error: what was wanted
// of it must not come from elsewhere.
func ChooseIdentity(ctx context.Context, p IdentityPlaces, answers func(ctx context.Context, socket string) bool) (IdentityChoice, error) {
	if p.SocketDir != "" {
		name := firstOf(p.SocketFile, "socket")
		if name != filepath.Base(name) {
			return IdentityChoice{}, fmt.Errorf("the SDS socket %q has to be the name of a file in %s", name, p.SocketDir)
		}
		socket := filepath.Join(p.SocketDir, name)
		if there(socket) && answers(ctx, socket) {
			return IdentityChoice{SDS: socket}, nil
		}
		if p.SocketFile != "" && p.SocketFile != "socket" {
			return IdentityChoice{}, fmt.Errorf("no SDS server answers at %s, which was asked for by name", socket)
		}
	}
	for _, dir := range p.CredentialDirs {
		for _, n := range credentialNames {
			c := IdentityChoice{Chain: filepath.Join(dir, n[0]), Key: filepath.Join(dir, n[1]), Root: filepath.Join(dir, n[2])}
			if there(c.Chain) && there(c.Key) && there(c.Root) {
				return c, nil
			}
		}
	}
	if p.CA == "" {
		return IdentityChoice{}, fmt.Errorf("there is no identity: no SDS server in %q, no certificates in %q, and no CA", p.SocketDir, p.CredentialDirs)
	}
	return IdentityChoice{CA: p.CA}, nil
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
