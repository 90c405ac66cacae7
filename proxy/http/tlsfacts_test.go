// SPDX-License-Identifier: Apache-2.0

package http

import (
	"encoding/pem"
	"testing"
	"time"
)

// factsCert is a client's certificate; what a real Envoy 1.40 logged of it is below.
const factsCert = `-----BEGIN CERTIFICATE-----
MIIB5TCCAYqgAwIBAgIUMWvlfuFLneQJ22JmjYKxfzgFaP0wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEcm9vdDAeFw0yNjExMjYwMTQ5MzRaFw0yNjEyMjYwMTQ5MzRa
MEoxCzAJBgNVBAYTAkRFMRIwEAYDVQQKDAlBY21lLCBJbmMxDDAKBgNVBAsMA2Er
YjEZMBcGA1UEAwwQY2xpICJxIiBlbnQ7eD0xXDBZMBMGByqGSM49AgEGCCqGSM49
AwEHA0IABI7N4SHluEsBjt8lVgCWhWcerPJ6g+Zr53N/Y+k8Njbqjf4MVF0y2dXo
WsQI5slpbofSV/PZOnF254VMzsIRtE+jgYgwgYUwQwYDVR0RBDwwOoYac3BpZmZl
Oi8vdGQvbnMvYS9zYS9jbGllbnSCDWEuZXhhbXBsZS5jb22CDWIuZXhhbXBsZS5j
b20wHQYDVR0OBBYEFDebS1PLTS1ULyaWAHB7Grj3GRKSMB8GA1UdIwQYMBaAFGRO
D5j55aKeNrKt6e4z27yMW8lpMAoGCCqGSM49BAMCA0kAMEYCIQDfih4Ihew2j1OL
t4GFNBa2FPFLpMHq302FsXeLABcXPwIhAJmqqSJdjuS8cfyBQ2l2x7vOzW05yARD
MyYmH/TixaT+
-----END CERTIFICATE-----
`

func factsConn(t *testing.T) *ConnInfo {
	t.Helper()
	block, _ := pem.Decode([]byte(factsCert))
	return &ConnInfo{TLS: &TLSInfo{
		Version: "TLSv1.3", CipherSuite: "TLS_AES_256_GCM_SHA384",
		Peer: &Certificate{
			Subject: "CN=x", Issuer: "CN=root", Serial: "316b", Digest: "182b", URIs: []string{"spiffe://td/one", "spiffe://td/two"},
			DNS: []string{"a.example.com", "b.example.com"}, Emails: []string{"e@example.com"}, NotBefore: time.Unix(1, 0), NotAfter: time.Unix(2, 0),
			Chain: [][]byte{block.Bytes, block.Bytes},
		},
		Own: &Certificate{Subject: "O=srv", URIs: []string{"spiffe://td/server"}, DNS: []string{"localhost"}, IPs: []string{"127.0.0.1"}, Emails: []string{"o@example.com"}},
	}}
}

func TestTLSFacts(t *testing.T) {
	const digest = "182b1e8d41c24b2a0931b806b63854ce2f7e1ad86b57840c4c1650e5104cbb72"
	const serial = "316be57ee14b9de409db62668d82b17f380568fd"
	conn := factsConn(t)
	for operator, want := range map[string]string{
		"DOWNSTREAM_TLS_VERSION":                 "TLSv1.3",
		"DOWNSTREAM_TLS_CIPHER":                  "TLS_AES_256_GCM_SHA384",
		"DOWNSTREAM_PEER_SUBJECT":                "CN=x",
		"DOWNSTREAM_PEER_ISSUER":                 "CN=root",
		"DOWNSTREAM_PEER_SERIAL":                 "316b",
		"DOWNSTREAM_PEER_FINGERPRINT_256":        "182b",
		"DOWNSTREAM_PEER_URI_SAN":                "spiffe://td/one,spiffe://td/two",
		"DOWNSTREAM_PEER_DNS_SAN":                "a.example.com,b.example.com",
		"DOWNSTREAM_PEER_IP_SAN":                 "",
		"DOWNSTREAM_PEER_EMAIL_SAN":              "e@example.com",
		"DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256": digest + "," + digest,
		"DOWNSTREAM_PEER_CHAIN_SERIALS":          serial + "," + serial,
		"DOWNSTREAM_LOCAL_SUBJECT":               "O=srv",
		"DOWNSTREAM_LOCAL_URI_SAN":               "spiffe://td/server",
		"DOWNSTREAM_LOCAL_DNS_SAN":               "localhost",
		"DOWNSTREAM_LOCAL_IP_SAN":                "127.0.0.1",
		"DOWNSTREAM_LOCAL_EMAIL_SAN":             "o@example.com",
		"DOWNSTREAM_PEER_CERT_V_START":           "", // is a time
		"DOWNSTREAM_TLS_SESSION_ID":              "", // isn't there
	} {
		if got := conn.Fact(LookupTLSFact(operator)); got != want {
			t.Errorf("%s is %q, want %q", operator, got, want)
		}
		for _, none := range []*ConnInfo{nil, {}, {TLS: &TLSInfo{}}} {
			if got := none.Fact(LookupTLSFact(operator)); got != "" {
				t.Errorf("%s without a certificate is %q", operator, got)
			}
		}
	}
	if at, ok := conn.TimeFact(LookupTLSFact("DOWNSTREAM_PEER_CERT_V_END")); !ok || at != time.Unix(2, 0) {
		t.Errorf("ends at %v, %v", at, ok)
	}
	if _, ok := conn.TimeFact(TLSVersion); ok {
		t.Error("a version is a time")
	}
}

// TestTLSFactPEM: certificates are encoded as Envoy does.
func TestTLSFactPEM(t *testing.T) {
	const want = "-----BEGIN%20CERTIFICATE-----%0AMIIB5TCCAYqgAwIBAgIUMWvlfuFLneQJ22JmjYKxfzgFaP0wCgYIKoZIzj0EAwIw%0ADzENMAsGA1UEAwwEcm9vdDAeFw0yNjExMjYwMTQ5MzRaFw0yNjEyMjYwMTQ5MzRa%0AMEoxCzAJBgNVBAYTAkRFMRIwEAYDVQQKDAlBY21lLCBJbmMxDDAKBgNVBAsMA2Er%0AYjEZMBcGA1UEAwwQY2xpICJxIiBlbnQ7eD0xXDBZMBMGByqGSM49AgEGCCqGSM49%0AAwEHA0IABI7N4SHluEsBjt8lVgCWhWcerPJ6g%2BZr53N%2FY%2Bk8Njbqjf4MVF0y2dXo%0AWsQI5slpbofSV%2FPZOnF254VMzsIRtE%2BjgYgwgYUwQwYDVR0RBDwwOoYac3BpZmZl%0AOi8vdGQvbnMvYS9zYS9jbGllbnSCDWEuZXhhbXBsZS5jb22CDWIuZXhhbXBsZS5j%0Ab20wHQYDVR0OBBYEFDebS1PLTS1ULyaWAHB7Grj3GRKSMB8GA1UdIwQYMBaAFGRO%0AD5j55aKeNrKt6e4z27yMW8lpMAoGCCqGSM49BAMCA0kAMEYCIQDfih4Ihew2j1OL%0At4GFNBa2FPFLpMHq302FsXeLABcXPwIhAJmqqSJdjuS8cfyBQ2l2x7vOzW05yARD%0AMyYmH%2FTixaT%2B%0A-----END%20CERTIFICATE-----%0A"
	if got := factsConn(t).Fact(TLSPeerCert); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestAppendServerName(t *testing.T) {
	for name, want := range map[string]string{
		"a.b-c.example.com": "a.b-c.example.com", "A_b": "A_b", "x\"\r\ny: z": "x___y__z", "\xff\x00": "__", "": "",
	} {
		if got := string(AppendServerName(nil, name)); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
}
