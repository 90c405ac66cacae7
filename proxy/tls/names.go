// SPDX-License-Identifier: Apache-2.0

package tls

import (
	stdtls "crypto/tls"
	"fmt"
	"slices"
	"strings"
)

// versionName returns a version as OpenSSL and Envoy name it.
func versionName(v uint16) string {
	switch v {
	case stdtls.VersionTLS13:
		return "TLSv1.3"
	case stdtls.VersionTLS12:
		return "TLSv1.2"
	}
	return fmt.Sprintf("0x%04x", v)
}

// suite is a cipher suite of TLS 1.2 under OpenSSL's name.
type suite struct {
	name string
	id   uint16
}

// suites12 are the suites of TLS 1.2 that both OpenSSL and Go have and that
// are worth having: authenticated encryption. Istio's list ends in two with
// RSA key exchange, which Go uses only if they are asked for by name.
var suites12 = []suite{
	{"ECDHE-ECDSA-AES128-GCM-SHA256", stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	{"ECDHE-RSA-AES128-GCM-SHA256", stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	{"ECDHE-ECDSA-AES256-GCM-SHA384", stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
	{"ECDHE-RSA-AES256-GCM-SHA384", stdtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384},
	{"ECDHE-ECDSA-CHACHA20-POLY1305", stdtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
	{"ECDHE-RSA-CHACHA20-POLY1305", stdtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256},
	{"AES128-GCM-SHA256", stdtls.TLS_RSA_WITH_AES_128_GCM_SHA256},
	{"AES256-GCM-SHA384", stdtls.TLS_RSA_WITH_AES_256_GCM_SHA384},
	{"ECDHE-ECDSA-AES128-SHA", stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA},
	{"ECDHE-RSA-AES128-SHA", stdtls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA},
	{"ECDHE-ECDSA-AES256-SHA", stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA},
	{"ECDHE-RSA-AES256-SHA", stdtls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA},
	{"AES128-SHA", stdtls.TLS_RSA_WITH_AES_128_CBC_SHA},
	{"AES256-SHA", stdtls.TLS_RSA_WITH_AES_256_CBC_SHA},
}

// strong is how many of suites12 are used if no list is given.
const strong = 6

// suites13 can't be chosen, by Go as by BoringSSL.
var suites13 = []suite{
	{"TLS_AES_128_GCM_SHA256", stdtls.TLS_AES_128_GCM_SHA256},
	{"TLS_AES_256_GCM_SHA384", stdtls.TLS_AES_256_GCM_SHA384},
	{"TLS_CHACHA20_POLY1305_SHA256", stdtls.TLS_CHACHA20_POLY1305_SHA256},
}

func suiteName(id uint16) string {
	for _, list := range [][]suite{suites13, suites12} {
		for i := range list {
			if list[i].id == id {
				return list[i].name
			}
		}
	}
	return stdtls.CipherSuiteName(id)
}

// parseSuites compiles cipher_suites. An entry may be a group of equals,
// "[A|B]"; Go orders suites itself, so the groups mean nothing more.
func parseSuites(names []string) ([]uint16, error) {
	var ids []uint16
	if len(names) == 0 {
		for _, s := range suites12[:strong] {
			ids = append(ids, s.id)
		}
		return ids, nil
	}
	for _, entry := range names {
		for name := range strings.SplitSeq(strings.Trim(entry, "[]"), "|") {
			i := slices.IndexFunc(suites12, func(s suite) bool { return s.name == name })
			if i >= 0 {
				ids = append(ids, suites12[i].id)
			} else if !slices.ContainsFunc(suites13, func(s suite) bool { return s.name == name }) {
				return nil, fmt.Errorf("cipher suite %q is not supported", name)
			}
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("none of the cipher suites is one of TLS 1.2, and those of TLS 1.3 can't be chosen")
	}
	return ids, nil
}

// curve is a key exchange under BoringSSL's name.
type curve struct {
	name string
	id   stdtls.CurveID
}

var curves = []curve{
	{"X25519MLKEM768", stdtls.X25519MLKEM768},
	{"X25519", stdtls.X25519},
	{"P-256", stdtls.CurveP256},
	{"P-384", stdtls.CurveP384},
	{"P-521", stdtls.CurveP521},
}

// defaultCurves is how many of curves are used if no list is given: with the
// post-quantum exchange.
const defaultCurves = 4

func curveName(id stdtls.CurveID) string {
	for _, c := range curves {
		if c.id == id {
			return c.name
		}
	}
	return id.String()
}

func parseCurves(names []string) ([]stdtls.CurveID, error) {
	var ids []stdtls.CurveID
	if len(names) == 0 {
		for _, c := range curves[:defaultCurves] {
			ids = append(ids, c.id)
		}
		return ids, nil
	}
	for _, name := range names {
		i := slices.IndexFunc(curves, func(c curve) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("curve %q is not supported", name)
		}
		ids = append(ids, curves[i].id)
	}
	return ids, nil
}
