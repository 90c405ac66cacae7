// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"testing"
)

func TestBuildVersion(t *testing.T) {
	for version, want := range map[string]string{
		"1.2.3":             "1.2.3-pillion",
		"v0.14.1":           "0.14.1-pillion",
		"v1.2.3-rc1":        "1.2.3-pillion-rc1",
		"v1.2.3-3-g5d37c06": "1.2.3-pillion-3-g5d37c06",
		"5d37c06-dirty":     "0.0.0-pillion-5d37c06-dirty",
		"dev":               "0.0.0-pillion-dev",
		"1.2":               "0.0.0-pillion-1.2",
		"1.2.99999999999":   "0.0.0-pillion-1.2.99999999999",
		"1.2.999999999":     "1.2.999999999-pillion",
		"release-1.2.3":     "0.0.0-pillion-release-1.2.3",
	} {
		b := buildVersion(version)
		v := b.GetVersion()
		got := fmt.Sprintf("%d.%d.%d-%s", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch(), b.GetMetadata().GetFields()["build.label"].GetStringValue())
		if got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
}
