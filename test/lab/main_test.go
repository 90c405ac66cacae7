// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"testing"

	"pillion/test/rig"
)

// binaries builds the proxy when the first test asks for it.
var binaries *rig.Builder

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pillion-lab")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = rig.NewBuilder(dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}
