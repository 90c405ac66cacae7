// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"testing"

	"pillion/proxy/http"
)

// TestForwardedPort: what a client is told to have called, where its connection was
// redirected to another port.
func TestForwardedPort(t *testing.T) {
	for _, tc := range []struct {
		name string
		info http.ConnInfo
		cfg  Config
		came string
		want string
	}{
		{"as it came", http.ConnInfo{Local: "10.0.0.1:8443"}, Config{}, "", "8443"},
		{"redirected", http.ConnInfo{Local: "10.0.0.1:15006", OriginalDst: "10.0.0.1:8080"}, Config{}, "", "8080"},
		{"told by another proxy", http.ConnInfo{Local: "10.0.0.1:8443"}, Config{}, "443", "443"},
		{"told to an edge", http.ConnInfo{Local: "[::1]:8443"}, Config{UseRemoteAddress: true}, "443", "8443"},
		{"told to an edge by a trusted proxy", http.ConnInfo{Local: "10.0.0.1:8443"}, Config{UseRemoteAddress: true, TrustedHops: 1}, "443", "443"},
		{"a Unix socket", http.ConnInfo{Local: "@"}, Config{}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := &stream{c: &conn{info: &tc.info}, cfg: &tc.cfg}
			st.ex.Conn = &tc.info
			if tc.came != "" {
				st.ex.Req.Fields.AddID(http.HeaderXForwardedPort, []byte(tc.came))
			}
			st.forwardedPort()
			if got, _ := st.ex.Req.Fields.Get(http.HeaderXForwardedPort); string(got) != tc.want {
				t.Errorf("%q, not %q", got, tc.want)
			}
		})
	}
}
