// SPDX-License-Identifier: Apache-2.0

package istio

import "strings"

// protocol is what a port says it carries.
type protocol uint8

// The protocols that Istio tells apart. protoUnnamed is a port that doesn't say; a
// sidecar looks at the bytes there and the http listener takes it for HTTP.
const (
	protoUnnamed protocol = iota
	protoHTTP
	protoHTTP2
	protoGRPC
	protoGRPCWeb
	protoHTTPProxy
	protoHTTPS
	protoTLS
	protoTCP
	protoMongo
	protoRedis
	protoMySQL
	protoUDP
)

// parseProtocol reads a protocol's name in any case; one it doesn't know is unnamed.
func parseProtocol(name string) protocol {
	switch strings.ToLower(name) {
	case "http":
		return protoHTTP
	case "http2":
		return protoHTTP2
	case "grpc":
		return protoGRPC
	case "grpc-web":
		return protoGRPCWeb
	case "http_proxy":
		return protoHTTPProxy
	case "https":
		return protoHTTPS
	case "tls":
		return protoTLS
	case "tcp":
		return protoTCP
	case "mongo":
		return protoMongo
	case "redis":
		return protoRedis
	case "mysql":
		return protoMySQL
	case "udp":
		return protoUDP
	}
	return protoUnnamed
}

// isHTTP: the port says that it carries HTTP of some version.
func (p protocol) isHTTP() bool { return p >= protoHTTP && p <= protoHTTPProxy }

// isHTTP2: the port says that it carries HTTP/2.
func (p protocol) isHTTP2() bool { return p >= protoHTTP2 && p <= protoGRPCWeb }

// routable: the port takes part in HTTP routing.
func (p protocol) routable() bool { return p == protoUnnamed || p.isHTTP() }

// isTLS: the bytes are a TLS connection of the application's own.
func (p protocol) isTLS() bool { return p == protoHTTPS || p == protoTLS }

// kubernetesProtocol derives a Service port's protocol: appProtocol, else the port's
// name up to the first hyphen. Ports of protocols in which the server speaks first are
// TCP when they don't say (25 SMTP, 53 DNS, 3306 MySQL, 27017 MongoDB), as Istio's
// pkg/config/kube has it.
func kubernetesProtocol(port uint32, name, transport, appProtocol string) protocol {
	if transport == "UDP" {
		return protoUDP
	}
	switch appProtocol {
	case "":
	case "kubernetes.io/h2c":
		return protoHTTP2
	case "kubernetes.io/ws":
		return protoHTTP
	case "kubernetes.io/wss":
		return protoHTTPS
	default:
		name = appProtocol
	}
	if len(name) >= len("grpc-web") && strings.EqualFold(name[:len("grpc-web")], "grpc-web") {
		return protoGRPCWeb
	}
	name, _, _ = strings.Cut(name, "-")
	p := parseProtocol(name)
	if p == protoUnnamed {
		switch port {
		case 25, 53, 3306, 27017:
			return protoTCP
		}
	}
	return p
}
