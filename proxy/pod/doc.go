// SPDX-License-Identifier: Apache-2.0

// Package pod is the contract between the proxy and the pod that it stands in:
// what Istio's webhook tells the container by arguments, environment and mounted
// files, and what the kubelet, Prometheus and Istio's tools ask it for.
package pod
