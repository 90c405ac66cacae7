# SPDX-License-Identifier: Apache-2.0

GO       ?= go
FUZZTIME ?= 10m
IMAGE    ?= pillion
# What the regression guard measures.
GATE     ?= -pin -turns 5 -duration 2s -open=false -band 0.2 -peers pillion,envoy,haproxy -scenario $(GATED)
GATED    := h1,h1-1000-connections,h1-1000-routes,h1-get-1m,h1-post-1m,h1-traced-1,h1-traced-100,h2,h2-64x1,h1-to-h2,grpc-unary,mtls-in,mtls-out,sidecar-pair,tcp,idle,idle-connections,idle-connections-h2,idle-connections-mtls,services-5000
VERSION  ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)

# Packages whose tests need no part of the machine. test/ drives the built
# binary and real parts, so it has a run of its own.
UNIT := ./cmd/... ./proxy/... ./bench/...

.DEFAULT_GOAL := help
.PHONY: help run build test unit blackbox tools lab lab-up check fips profile bench bench-quick bench-gate bench-gate-write microbench fuzz soak image

help: ## print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## run the demo mesh
	$(GO) run ./cmd/proxy demo

build: ## build the static binary into build/proxy
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o build/proxy ./cmd/proxy

test: tools lab unit blackbox fips ## install what the tests need, then run them all

tools: ## install the programs that tests and benchmarks drive
	./scripts/install-tools.sh

lab: ## build the istiod and istioctl that tests drive; minutes when it is cold
	./scripts/install-lab.sh

lab-up: lab ## run an istiod without a cluster, on the bookinfo mesh (LAB='-flavour safe …')
	$(GO) run ./test/lab/up $(LAB)

# The data path once with the race detector and once without: its bookkeeping
# allocates, so the tests that count allocations say nothing under it.
unit: ## run the tests beside the code, with and without -race
	CGO_ENABLED=1 $(GO) test -race $(UNIT)
	$(GO) test ./cmd/... ./proxy/...

blackbox: ## run the tests of the built binary
	$(GO) test -count=1 -timeout 10m ./test/...

check: ## formatting, vet, staticcheck and the house law
	@unformatted=$$(gofmt -l bench cmd proxy scripts test); \
	  if [ -n "$$unformatted" ]; then echo "run gofmt -w on:" $$unformatted >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -count=1 -run 'Imports?|BlackBox' ./proxy
	$(GO) test -count=1 ./test/law

# The module's certified version, not the one of the toolchain.
fips: ## build build/proxy-fips with Go's FIPS 140-3 module, and test TLS in that mode
	CGO_ENABLED=0 GOFIPS140=v1.0.0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o build/proxy-fips ./cmd/proxy
	./build/proxy-fips --version | grep 'FIPS 140-3 module v1.0.0'
	GOFIPS140=v1.0.0 PILLION_FIPS=on $(GO) test -count=1 ./proxy/tls/...

# What the compiler inlines and lays out is guided by where time goes under load, and in
# reading a large configuration.
profile: ## renew cmd/proxy/default.pgo, the profile that guides the compiler
	$(GO) run ./bench -peers pillion -turns 1 -duration 10s -open=false -profile build/profiles \
	  -scenario h1,h2,h1-to-h2,h2-to-h1,mtls-in,mtls-out,grpc-unary,tcp
	$(GO) test -run '^$$' -bench 'Load/docs=3000/procs=1' -benchtime 4s -cpuprofile build/profiles/load.pprof -o build/profile.test ./proxy/istio/source
	$(GO) test -run '^$$' -bench Translate1000 -benchtime 2s -cpuprofile build/profiles/translate.pprof -o build/profile.test ./proxy/istio
	$(GO) test -run '^$$' -bench CompileThousand -benchtime 2s -cpuprofile build/profiles/compile.pprof -o build/profile.test ./proxy/config
	$(GO) tool pprof -proto build/profiles/*.pprof > cmd/proxy/default.pgo

bench: ## run the side-by-side load (BENCH='-scenario all …'; see go run ./bench -help)
	$(GO) run ./bench $(BENCH)

bench-quick: ## a first impression of it, in two minutes, beside the stored ratios
	$(GO) run ./bench -quick -pin -scenario h1,idle -gate bench/gate.json

bench-gate: ## all stored ratios, in twenty minutes; fails where one has become worse
	$(GO) run ./bench $(GATE) -gate bench/gate.json

bench-gate-write: ## store new ratios, on a quiet machine
	$(GO) run ./bench $(GATE) -write-gate bench/gate.json -out bench/results

microbench: ## run the benchmarks beside the code
	$(GO) test -run '^$$' -bench . -benchmem ./proxy/...

fuzz: ## run each fuzz target for FUZZTIME
	$(GO) run ./scripts/fuzz -time $(FUZZTIME)

soak: ## ten minutes of 200 gRPC streams with pauses, of certificates that rotate every 5 s, and of a control plane that changes and fails
	$(GO) test -count=1 -timeout 60m -v ./test -run 'TestManyStreams|TestRotation$$|TestPlane' -soak 10m

image: ## build the container image, where docker is
	@command -v docker >/dev/null || { echo "image: docker is not installed" >&2; exit 1; }
	docker build --build-arg VERSION=$(VERSION) -t $(IMAGE) .
