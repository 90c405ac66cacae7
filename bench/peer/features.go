// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"pillion/bench/mesh"
)

// Feature is ours with one thing more, or less, than it has by default, so that
// what the thing costs is a row of its own.
type Feature struct {
	pillion
	name, summary string
	// traced is Job.Traced; add returns more YAML and arguments; edit changes the YAML of
	// the services.
	traced int
	add    func(job Job, dir string) (yaml string, args []string, err error)
	edit   func(yaml string) string
}

// Name implements Peer.
func (f Feature) Name() string { return f.name }

// Summary implements Peer.
func (f Feature) Summary() string { return f.summary }

// Prepare implements Peer: as ours, with the feature beside it.
func (f Feature) Prepare(tool Tool, dir string, job Job) (Launch, error) {
	job.Traced = max(job.Traced, f.traced)
	l, err := f.pillion.Prepare(tool, dir, job)
	if err != nil {
		return l, err
	}
	files := filepath.Join(dir, "mesh")
	if f.edit != nil {
		if err := editAll(files, f.edit); err != nil {
			return l, err
		}
	}
	if f.add == nil {
		return l, nil
	}
	yaml, args, err := f.add(job, dir)
	if err != nil {
		return l, err
	}
	last := len(l.Spec.Args) - 1 // the path
	l.Spec.Args = append(append(l.Spec.Args[:last:last], args...), files)
	return l, os.WriteFile(filepath.Join(files, "feature.yaml"), []byte(yaml), 0o600)
}

func editAll(dir string, edit func(string) string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		changed := edit(string(text))
		if changed == string(text) {
			return fmt.Errorf("%s: the feature changes nothing", name)
		}
		if err := os.WriteFile(name, []byte(changed), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Features returns what is compared with ours as it is: on the way out of a
// workload, or before it.
func Features(inbound bool) []Peer {
	log := Feature{name: "+access-log", summary: "an access log in Istio's text format, to a file", add: accessLog}
	some := Feature{name: "+tracing-1", summary: "one request in a hundred is traced, spans go to the origin by OTLP over HTTP", traced: 1}
	each := Feature{name: "+tracing-100", summary: "the same of every request", traced: 100}
	if inbound {
		return []Peer{
			log, some, each,
			Feature{name: "+rbac-10", summary: "an AuthorizationPolicy of 10 rules, of which the last allows", add: rbac(10)},
			Feature{name: "+rbac-1000", summary: "the same of 1,000 rules", add: rbac(1000)},
			Feature{name: "+jwt", summary: "a RequestAuthentication, and a token with each request", add: requestAuthentication},
		}
	}
	return []Peer{
		log, some, each,
		Feature{name: "+fault", summary: "a delay of 1 ms that one request in a million gets", edit: fault},
		Feature{name: "+split", summary: "two weighted destinations on each route", edit: split},
		Feature{name: "+headers", summary: "two header fields set, one removed, in each direction", edit: headers},
		Feature{name: "-outlier", summary: "no outlier detection", edit: func(yaml string) string {
			return cutLine(yaml, "    outlierDetection:")
		}},
		Feature{name: "-breakers", summary: "no limits on connections and requests", edit: func(yaml string) string {
			yaml = cutLine(yaml, "    connectionPool:")
			return cutLine(cutLine(yaml, "      tcp:"), "      http:")
		}},
	}
}

// cutLine removes the first line that begins so.
func cutLine(yaml, begin string) string {
	before, rest, found := strings.Cut(yaml, "\n"+begin)
	if !found {
		return yaml
	}
	_, after, _ := strings.Cut(rest, "\n")
	return before + "\n" + after
}

func accessLog(_ Job, dir string) (string, []string, error) {
	file := filepath.Join(dir, "meshconfig.yaml")
	text := "accessLogFile: " + filepath.Join(dir, "access.log") + "\n"
	return "", []string{"--mesh-config", file}, os.WriteFile(file, []byte(text), 0o600)
}

const matchedRoute = "    route: [{destination: {host: "

func fault(yaml string) string {
	return strings.ReplaceAll(yaml, matchedRoute, "    fault: {delay: {fixedDelay: 1ms, percentage: {value: 0.0001}}}\n"+matchedRoute)
}

func split(yaml string) string {
	const only = "subset: v2}}]"
	host := strings.TrimSpace(strings.SplitN(strings.SplitN(yaml, matchedRoute, 2)[1], ",", 2)[0])
	return strings.Replace(yaml, only, "subset: v2}, weight: 99}, {destination: {host: "+host+", subset: v2}, weight: 1}]", 1)
}

func headers(yaml string) string {
	return strings.ReplaceAll(yaml, matchedRoute, `    headers:
      request: {set: {x-one: "1", x-two: "2"}, remove: [x-three]}
      response: {set: {x-one: "1", x-two: "2"}, remove: [x-three]}
`+matchedRoute)
}

// rbac is a policy whose last rule allows the measured request, and whose others
// are each about another path.
func rbac(rules int) func(Job, string) (string, []string, error) {
	return func(job Job, _ string) (string, []string, error) {
		var b strings.Builder
		fmt.Fprintf(&b, `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: many, namespace: %s}
spec:
  selector: {matchLabels: {app: %s}}
  action: ALLOW
  rules:
`, mesh.Namespace, job.Services[0].Name)
		for i := range rules - 1 {
			fmt.Fprintf(&b, "  - {to: [{operation: {methods: [GET], paths: [/other/%d]}}]}\n", i)
		}
		b.WriteString("  - {to: [{operation: {methods: [GET], paths: [/bench, /check]}}]}\n")
		return b.String(), nil, nil
	}
}

func requestAuthentication(job Job, _ string) (string, []string, error) {
	_, keys, err := Token()
	return fmt.Sprintf(`apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: %s}
spec:
  selector: {matchLabels: {app: %s}}
  jwtRules: [{issuer: bench, forwardOriginalToken: true, jwks: '%s'}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tokens, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: %[2]s}}
  action: ALLOW
  rules: [{from: [{source: {requestPrincipals: ["bench/*"]}}]}]
`, mesh.Namespace, job.Services[0].Name, keys), nil, err
}

// Token returns the bearer token of a benchmark's requests and the key set that
// it verifies with, the same for the life of the program.
func Token() (token, keys string, err error) {
	t, err := makeToken()
	return t.token, t.keys, err
}

type tokens struct{ token, keys string }

var makeToken = sync.OnceValues(func() (tokens, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tokens{}, err
	}
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		return tokens{}, err
	}
	text := base64.RawURLEncoding.EncodeToString
	keys, err := json.Marshal(map[string]any{"keys": []map[string]string{
		{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "bench", "x": text(point[1:33]), "y": text(point[33:])},
	}})
	if err != nil {
		return tokens{}, err
	}
	now := time.Now()
	claims := fmt.Sprintf(`{"iss":"bench","sub":"client","iat":%d,"exp":%d}`, now.Unix(), now.Add(24*time.Hour).Unix())
	signed := text([]byte(`{"alg":"ES256","kid":"bench","typ":"JWT"}`)) + "." + text([]byte(claims))
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return tokens{}, err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return tokens{token: signed + "." + text(signature[:]), keys: string(keys)}, nil
})
