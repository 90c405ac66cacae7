// SPDX-License-Identifier: Apache-2.0

// Package http holds what every HTTP codec, filter and router of the proxy
// shares: ordered header fields that point into the read buffer, message
// heads, the Exchange (one request with its response), and Error, the only
// way an exchange fails.
//
// It knows no socket and no codec. Inside this module the name shadows the
// standard library's net/http, which is imported as nethttp.
package http
