// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"errors"
	"fmt"
	"strings"
)

// spiffeScheme begins every SPIFFE ID; the scheme is in lower case.
const spiffeScheme = "spiffe://"

// Bounds of the SPIFFE standard (SPIFFE-ID section 2).
const (
	maxID          = 2048
	maxTrustDomain = 255
)

// ID is a SPIFFE ID in its parts.
type ID struct {
	TrustDomain string
	Path        string // with its leading slash; empty for a trust domain's own ID
}

// String returns the ID as a URI.
func (id ID) String() string { return spiffeScheme + id.TrustDomain + id.Path }

// IdentityError is a certificate of ours that is for somebody else.
type IdentityError struct{ Got, Want string }

// Error says for whom it is.
func (e *IdentityError) Error() string {
	return fmt.Sprintf("the certificate is for the identity %.200q, not for %q", e.Got, e.Want)
}

// MeshID is the ID that Istio gives a workload.
func MeshID(trustDomain, namespace, serviceAccount string) ID {
	return ID{TrustDomain: trustDomain, Path: "/ns/" + namespace + "/sa/" + serviceAccount}
}

// ParseID parses a SPIFFE ID by the letter of the standard: no port, no user,
// no query, no fragment, no escapes, no empty or dotted segments. What isn't
// in that form could be read in two ways by the next one that looks at it.
func ParseID(uri string) (ID, error) {
	rest, ok := strings.CutPrefix(uri, spiffeScheme)
	if !ok {
		return ID{}, fmt.Errorf("%.80q does not begin with %s", uri, spiffeScheme)
	}
	if len(uri) > maxID {
		return ID{}, fmt.Errorf("a SPIFFE ID of %d bytes is longer than %d", len(uri), maxID)
	}
	domain, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		domain, path = rest[:i], rest[i:]
	}
	if err := checkTrustDomain(domain); err != nil {
		return ID{}, err
	}
	if err := checkIDPath(path); err != nil {
		return ID{}, err
	}
	return ID{TrustDomain: domain, Path: path}, nil
}

func checkTrustDomain(d string) error {
	if d == "" || len(d) > maxTrustDomain {
		return fmt.Errorf("a trust domain has 1 to %d bytes, not %d", maxTrustDomain, len(d))
	}
	if d == "." || d == ".." { // which URIs of other forms would resolve
		return errors.New("a trust domain is no segment of dots")
	}
	for i := range len(d) {
		if c := d[i]; !lowerOrDigit(c) && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("%q has no place in a trust domain", c)
		}
	}
	return nil
}

func checkIDPath(p string) error {
	if p == "" {
		return nil
	}
	for segment := range strings.SplitSeq(p[1:], "/") {
		switch segment {
		case "":
			return errors.New("the path has an empty segment")
		case ".", "..":
			return errors.New("the path has a segment of dots")
		}
		for i := range len(segment) {
			c := segment[i]
			if !lowerOrDigit(c) && (c < 'A' || 'Z' < c) && c != '.' && c != '-' && c != '_' {
				return fmt.Errorf("%q has no place in the path of a SPIFFE ID", c)
			}
		}
	}
	return nil
}

func lowerOrDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
