// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	mesh "istio.io/api/mesh/v1alpha1"
)

// Discovery is where the control plane is, and how it is spoken to.
type Discovery struct {
	Address         string // HOST:PORT
	Plaintext       bool
	RootFile        string // empty: the machine's trust anchors
	ServerName      string
	TokenFile       string
	Headers         map[string]string
	StateOfTheWorld bool
}

// Identity is where the workload's certificate may come from. The first place
// that there is is taken, in the order of the fields.
type Identity struct {
	SocketDir, SocketFile string // of a foreign SDS server
	CredentialDirs        []string
	CA                    string // HOST:PORT; empty: files have to be there
	Request               Request
}

// Request is what the CA is asked for and told.
type Request struct {
	ID         string // the SPIFFE ID
	RootFile   string // empty: the machine's trust anchors
	ServerName string // empty: the host of the CA's address
	TokenFile  string
	Headers    map[string]string
	ECDSA      string // the curve, P256 or P384; empty: RSA
	RSABits    int
	PKCS8      bool
	TTL        time.Duration
	// GraceRatio of its life, give or take GraceJitter, is left of a certificate
	// when it is renewed.
	GraceRatio, GraceJitter float64
	OutputDir               string
	CertSigner              string
}

// The files of an injected pod (istio.io/istio/pkg/config/constants and
// pkg/security).
const (
	istiodRoot     = "var/run/secrets/istio/root-cert.pem"
	legacyRoot     = "etc/certs/root-cert.pem"
	tokenPath      = "var/run/secrets/tokens/istio-token"
	identitySocket = "var/run/secrets/workload-spiffe-uds"
	workloadCerts  = "var/run/secrets/workload-spiffe-credentials"
	systemRoots    = "SYSTEM"
)

func (r *reader) discovery(p *Pod) Discovery {
	d := Discovery{
		Address:         p.Config.GetDiscoveryAddress(),
		Plaintext:       p.Config.GetControlPlaneAuthPolicy() == mesh.AuthenticationPolicy_NONE,
		TokenFile:       r.path(tokenPath),
		Headers:         r.prefixed("XDS_HEADER_"),
		StateOfTheWorld: !r.flag("ISTIO_DELTA_XDS", true),
	}
	host, err := hostOf(d.Address)
	if err != nil {
		r.refuse("ProxyConfig: discoveryAddress", d.Address, err.Error(), "give it as istiod.istio-system.svc:15012")
	}
	if r.choice("XDS_AUTH_PROVIDER", "none", "none", "gcp") == "gcp" {
		r.refuse("XDS_AUTH_PROVIDER", "gcp", "is not supported", "leave it out: the service account's token is sent")
	}
	if d.Plaintext {
		return d
	}
	d.ServerName = r.serverName(host)
	d.RootFile = r.controlPlaneRoot("XDS_ROOT_CA", isFile(r.path(legacyRoot)))
	return d
}

// hostOf splits HOST:PORT and returns the host.
func hostOf(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return "", fmt.Errorf("is not HOST:PORT")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("has no port from 1 to 65535")
	}
	return host, nil
}

// serverName is what istiod's certificate has to be for.
func (r *reader) serverName(host string) string {
	if san := r.text("ISTIOD_SAN", ""); san != "" {
		return san
	}
	if host == "localhost" {
		return "istiod.istio-system.svc"
	}
	return host
}

// controlPlaneRoot finds the file of what a server of the control plane has to
// show: variable names one, or SYSTEM; then Istio's places in its order.
func (r *reader) controlPlaneRoot(variable string, legacy bool) string {
	named := r.text(variable, "")
	prov := r.text("PROV_CERT", "")
	var path, remedy string
	switch {
	case named == systemRoots:
		return ""
	case named != "":
		path, remedy = r.path(named), variable+" names it: mount it, or set "+variable+"=SYSTEM for the machine's trust anchors"
	case legacy:
		return r.path(legacyRoot)
	case prov != "":
		return r.path(prov + "/root-cert.pem") // it may be put there later
	case r.flag("FILE_MOUNTED_CERTS", false) && variable == "XDS_ROOT_CA":
		const file = "ISTIO_META_TLS_CLIENT_ROOT_CERT"
		if path = r.text(file, ""); path == "" {
			r.refuse("FILE_MOUNTED_CERTS", "true", "needs "+file, "name the file of the control plane's root by it")
			return ""
		}
		path, remedy = r.path(path), file+" names it: mount it"
	case r.text("PILOT_CERT_PROVIDER", "istiod") == "none":
		r.refuse("PILOT_CERT_PROVIDER", "none", "names no root for the control plane", "name it by "+variable)
		return ""
	default:
		path, remedy = r.path(istiodRoot), "istiod puts it into the ConfigMap istio-ca-root-cert of each namespace: see that the volume istiod-ca-cert is mounted"
	}
	if !isFile(path) {
		r.refuse(path, "", "isn't there, and istiod can't be told from others without it", remedy)
	}
	return path
}

func (r *reader) identity(p *Pod) Identity {
	id := Identity{
		SocketDir:      r.path(identitySocket),
		SocketFile:     r.text("WORKLOAD_IDENTITY_SOCKET_FILE", "socket"),
		CredentialDirs: []string{r.path(workloadCerts), r.path("etc/certs")},
	}
	if strings.ContainsRune(id.SocketFile, '/') {
		r.refuse("WORKLOAD_IDENTITY_SOCKET_FILE", id.SocketFile, "is not the name of a file", "the socket has to be in /"+identitySocket)
	}
	r.request(p, &id.Request)
	provider := r.choice("CA_PROVIDER", "Citadel", "Citadel", "GkeWorkloadCertificate", "GoogleCAS", "GoogleCA")
	mounted := r.flag("FILE_MOUNTED_CERTS", false)
	switch {
	case provider == "GoogleCAS" || provider == "GoogleCA":
		r.refuse("CA_PROVIDER", provider, "is not supported", "leave it out: istiod's protocol is spoken to CA_ADDR")
		return id
	case provider == "GkeWorkloadCertificate" || mounted:
		return id // files, or nothing
	}
	id.CA = r.text("CA_ADDR", "")
	if id.CA == "" {
		id.CA = p.Config.GetDiscoveryAddress()
		id.Request.ServerName = r.text("ISTIOD_SAN", "")
	}
	if _, err := hostOf(id.CA); err != nil {
		if r.text("CA_ADDR", "") != "" {
			r.refuse("CA_ADDR", id.CA, err.Error(), "give it as istiod.istio-system.svc:15012, or leave it out for discoveryAddress")
		}
		return id
	}
	if strings.HasSuffix(id.CA, ":15010") {
		return id // in the clear
	}
	if r.text("PILOT_CERT_PROVIDER", "istiod") == "custom" && r.text("CA_ROOT_CA", "") == "" {
		id.Request.RootFile = r.path(legacyRoot)
		return id
	}
	id.Request.RootFile = r.controlPlaneRoot("CA_ROOT_CA", false)
	return id
}

// request reads how a certificate is asked for.
func (r *reader) request(p *Pod, q *Request) {
	q.ID = "spiffe://" + p.TrustDomain + "/ns/" + p.Namespace + "/sa/" + p.ServiceAccount
	q.TokenFile = r.path(tokenPath)
	q.Headers = r.prefixed("CA_HEADER_")
	q.PKCS8 = r.flag("PKCS8_KEY", false)
	q.RSABits = r.number("WORKLOAD_RSA_KEY_SIZE", 2048)
	switch q.RSABits {
	case 2048, 3072, 4096:
	default:
		r.refuse("WORKLOAD_RSA_KEY_SIZE", strconv.Itoa(q.RSABits), "is not 2048, 3072 or 4096", "set one of them, or ECC_SIGNATURE_ALGORITHM=ECDSA")
	}
	if r.choice("ECC_SIGNATURE_ALGORITHM", "", "ECDSA") == "ECDSA" {
		q.ECDSA = r.choice("ECC_CURVE", "P256", "P256", "P384")
	}
	if q.TTL = r.duration("SECRET_TTL", 24*time.Hour); q.TTL < time.Second {
		r.refuse("SECRET_TTL", q.TTL.String(), "is no life for a certificate", "give a time such as 24h")
	}
	q.GraceRatio = r.ratio("SECRET_GRACE_PERIOD_RATIO", 0.5)
	q.GraceJitter = r.ratio("SECRET_GRACE_PERIOD_RATIO_JITTER", 0.01)
	if out := r.text("OUTPUT_CERTS", ""); out != "" {
		q.OutputDir = r.path(out)
	}
	q.CertSigner = r.text("ISTIO_META_CERT_SIGNER", "")
	if policy := r.text("JWT_POLICY", "third-party-jwt"); policy != "third-party-jwt" {
		r.warn("JWT_POLICY=%s: the token of the volume istio-token is used all the same", shortened(policy))
	}
	if kind := r.text("CREDENTIAL_FETCHER_TYPE", "JWT"); kind != "JWT" {
		r.refuse("CREDENTIAL_FETCHER_TYPE", kind, "is not supported", "leave it out: the service account's token is read from a file")
	}
	if a := r.text("TOKEN_AUDIENCES", "istio-ca"); a != "istio-ca" {
		r.warn("TOKEN_AUDIENCES=%s is not heeded: the audience is that of the volume istio-token", shortened(a))
	}
	if r.text("PROV_CERT", "") != "" {
		if r.flag("FILE_MOUNTED_CERTS", false) {
			r.refuse("PROV_CERT", r.text("PROV_CERT", ""), "and FILE_MOUNTED_CERTS exclude each other", "keep one of them")
		}
		r.warn("PROV_CERT: the control plane is shown no client certificate; it has to know the workload by its token")
	}
}
