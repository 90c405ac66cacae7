// SPDX-License-Identifier: Apache-2.0

// Package pod is the contract between the proxy and the pod that it stands in:
// what Istio's webhook tells the container by arguments, environment and mounted
// files, and what the kubelet, Prometheus and Istio's tools ask it for.
//
// Read makes one checked Pod of all that the container is given. Status answers
// on the ports that the kubelet and Prometheus know, and Lifecycle is how the
// container ends. What they need of the proxy itself is the interface Proxy.
package pod
