// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	nethttp "net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Issuer is who tokens of service accounts are from.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// Audience is what a token is for if nothing else was asked: the API itself.
const Audience = Issuer

// issuer signs the tokens of service accounts. It is immutable.
type issuer struct {
	key    *rsa.PrivateKey
	signer jose.Signer
}

const keyID = "lab"

func newIssuer() (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: keyID}}, (&jose.SignerOptions{}).WithType("JWT"))
	return &issuer{key, signer}, err
}

func (i *issuer) keys() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: keyID, Algorithm: string(jose.RS256), Use: "sig"}}}
}

// claims are those of a token that is bound to a service account, as a pod
// gets it by projection.
type claims struct {
	jwt.Claims
	Kubernetes kubernetesClaims `json:"kubernetes.io"`
}

type kubernetesClaims struct {
	Namespace      string     `json:"namespace"`
	ServiceAccount reference  `json:"serviceaccount"`
	Pod            *reference `json:"pod,omitempty"`
}

type reference struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// TokenOptions say what a token is for.
type TokenOptions struct {
	Audiences []string      // Audience alone if empty
	TTL       time.Duration // an hour if 0; a negative one makes a token that has expired
	Pod       string        // the pod that it is bound to, if any
}

// Token makes a token of a service account, which has to be there.
func (s *Server) Token(ns, account string, o TokenOptions) (string, error) {
	sa, err := s.store.get(s.store.byKind("v1", "ServiceAccount"), ns, account)
	if err != nil {
		return "", err
	}
	if len(o.Audiences) == 0 {
		o.Audiences = []string{Audience}
	}
	if o.TTL == 0 {
		o.TTL = time.Hour
	}
	now := time.Now()
	issued := now
	if o.TTL < 0 {
		issued = now.Add(o.TTL - time.Hour)
	}
	c := claims{
		Claims: jwt.Claims{Issuer: Issuer, Subject: "system:serviceaccount:" + ns + ":" + account, Audience: o.Audiences,
			Expiry: jwt.NewNumericDate(now.Add(o.TTL)), IssuedAt: jwt.NewNumericDate(issued), NotBefore: jwt.NewNumericDate(issued), ID: newUID()},
		Kubernetes: kubernetesClaims{Namespace: ns, ServiceAccount: reference{account, str(sa, "metadata", "uid")}},
	}
	if o.Pod != "" {
		pod, err := s.store.get(s.store.byKind("v1", "Pod"), ns, o.Pod)
		if err != nil {
			return "", err
		}
		c.Kubernetes.Pod = &reference{o.Pod, str(pod, "metadata", "uid")}
	}
	return jwt.Signed(s.issuer.signer).Claims(c).Serialize()
}

// authenticate checks a token as the API does: signature, time, audience, and
// that the account, and the pod that it is bound to, are still there.
func (s *Server) authenticate(token string, audiences []string) (*claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, fmt.Errorf("invalid bearer token: %w", err)
	}
	var c claims
	if err := parsed.Claims(s.issuer.key.Public(), &c); err != nil {
		return nil, fmt.Errorf("invalid bearer token: %w", err)
	}
	if err := c.ValidateWithLeeway(jwt.Expected{Issuer: Issuer, AnyAudience: audiences, Time: time.Now()}, 0); err != nil {
		if !slices.ContainsFunc(audiences, func(a string) bool { return c.Audience.Contains(a) }) {
			return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(c.Audience), audiences)
		}
		return nil, fmt.Errorf("invalid bearer token: %w", err)
	}
	k := c.Kubernetes
	for kind, ref := range map[string]*reference{"ServiceAccount": &k.ServiceAccount, "Pod": k.Pod} {
		if ref == nil {
			continue
		}
		obj, err := s.store.get(s.store.byKind("v1", kind), k.Namespace, ref.Name)
		if err != nil || str(obj, "metadata", "uid") != ref.UID {
			return nil, fmt.Errorf("the token's %s %s/%s has been deleted", kind, k.Namespace, ref.Name)
		}
	}
	return &c, nil
}

// review answers the requests that ask or decide something and store nothing.
// ours is false for a request that is none of them.
func (s *Server) review(r *nethttp.Request) (answer any, ours bool, err error) {
	if r.Method != nethttp.MethodPost {
		return nil, false, nil
	}
	var act func(Object) (Object, error)
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.URL.Path == "/apis/authentication.k8s.io/v1/tokenreviews":
		act = s.reviewToken
	case strings.HasPrefix(r.URL.Path, "/apis/authorization.k8s.io/v1/") && strings.HasSuffix(r.URL.Path, "accessreviews"):
		act = func(Object) (Object, error) {
			return Object{"allowed": true, "reason": "everyone may do everything in the lab"}, nil
		}
	case len(path) == 7 && path[2] == "namespaces" && path[4] == "serviceaccounts" && path[6] == "token":
		act = func(spec Object) (Object, error) { return s.requestToken(path[3], path[5], spec) }
	default:
		return nil, false, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return nil, true, failure(nethttp.StatusBadRequest, "BadRequest", "the body: %v", err)
	}
	obj, err := decode(body)
	if err != nil {
		return nil, true, err
	}
	spec, _ := obj["spec"].(Object)
	status, err := act(spec)
	if err != nil {
		return nil, true, err
	}
	obj["status"] = status
	return obj, true, nil
}

func (s *Server) reviewToken(spec Object) (Object, error) {
	audiences := texts(spec["audiences"])
	if len(audiences) == 0 {
		audiences = []string{Audience}
	}
	c, err := s.authenticate(str(spec, "token"), audiences)
	if err != nil {
		return Object{"authenticated": false, "error": err.Error()}, nil
	}
	var both []any
	for _, a := range audiences {
		if c.Audience.Contains(a) {
			both = append(both, a)
		}
	}
	ns := c.Kubernetes.Namespace
	user := Object{"username": c.Subject, "uid": c.Kubernetes.ServiceAccount.UID,
		"groups": []any{"system:serviceaccounts", "system:serviceaccounts:" + ns, "system:authenticated"}}
	if pod := c.Kubernetes.Pod; pod != nil {
		user["extra"] = Object{"authentication.kubernetes.io/pod-name": []any{pod.Name}, "authentication.kubernetes.io/pod-uid": []any{pod.UID}}
	}
	return Object{"authenticated": true, "user": user, "audiences": both}, nil
}

func (s *Server) requestToken(ns, account string, spec Object) (Object, error) {
	o := TokenOptions{Audiences: texts(spec["audiences"]), TTL: time.Hour}
	if seconds, ok := spec["expirationSeconds"].(float64); ok {
		o.TTL = time.Duration(seconds) * time.Second
	}
	if bound, ok := spec["boundObjectRef"].(Object); ok && bound["kind"] == "Pod" {
		o.Pod = str(bound, "name")
	}
	token, err := s.Token(ns, account, o)
	if err != nil {
		return nil, err
	}
	return Object{"token": token, "expirationTimestamp": time.Now().Add(o.TTL).UTC().Format(time.RFC3339)}, nil
}

// texts returns the texts of a JSON array.
func texts(v any) []string {
	list, _ := v.([]any)
	var all []string
	for _, e := range list {
		if t, ok := e.(string); ok {
			all = append(all, t)
		}
	}
	return all
}
