// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/modfile"
)

// istio is the module that the programs are of.
const istio = "istio.io/istio"

// Program returns the path that scripts/install-lab.sh gives a program of
// Istio, whether it is there or not. Its version is that of test/istiod/go.mod
// below root, the top folder of the repository.
func Program(root, name string) (string, error) {
	path := filepath.Join(root, "test", "istiod", "go.mod")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	mod, err := modfile.Parse(path, text, nil)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	for _, r := range mod.Require {
		if r.Mod.Path == istio {
			return filepath.Join(cache, "pillion", "lab", r.Mod.Version, name), nil
		}
	}
	return "", fmt.Errorf("%s: %s isn't required", path, istio)
}
