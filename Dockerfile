# SPDX-License-Identifier: Apache-2.0
#
# The container of a mesh pod: one static binary and nothing else. It takes
# the place of istio-proxy, so it is also called pilot-agent, the bare name
# that the injected lifecycle hooks and arguments use.
ARG GO_IMAGE=golang:1.26

FROM ${GO_IMAGE} AS build
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# A symbolic link gives the second name without a second copy of the binary.
# CA certificates are for egress that verifies public servers (TLS mode SIMPLE).
RUN mkdir -p /out/usr/local/bin /out/etc/ssl/certs \
 && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/usr/local/bin/pilot-agent ./cmd/proxy \
 && ln -s pilot-agent /out/usr/local/bin/proxy \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/

FROM scratch
COPY --from=build /out/ /
ENV PATH=/usr/local/bin
# Istio's traffic rules leave the traffic of this user and group alone.
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/pilot-agent"]
