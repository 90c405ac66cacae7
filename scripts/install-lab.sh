#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds what test/lab drives, unmodified, of the version that
# test/istiod/go.mod pins: pilot-discovery (istiod), pilot-agent, for the rules
# of iptables that it makes and as Envoy's companion, istioctl, and the template
# of Envoy's bootstrap. They go into a cache folder of this user that is named
# by that version.
#
# Safe to run again: it builds only what is missing, or what was built with
# other dependencies or another Go. A cold build compiles some 2,000 packages:
# minutes. With names as arguments it builds these programs only.
set -euo pipefail
module=$(cd "$(dirname "$0")/../test/istiod" && pwd)

say() { printf 'lab: %s\n' "$*"; }
die() { printf 'lab: %s\n' "$*" >&2; exit 1; }

# istioctl is last: no test of istiod waits for it.
programs=(pilot/cmd/pilot-discovery pilot/cmd/pilot-agent istioctl/cmd/istioctl)

export GOFLAGS=-mod=readonly CGO_ENABLED=0
version=$(go -C "$module" list -m -f '{{.Version}}' istio.io/istio)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/pillion/lab/$version
# What a program is made of, besides its own version.
made_of="$(go version) $(cat "$module/go.mod" "$module/go.sum" | sha256sum)"

# build PACKAGE NAME says every half minute how far it is: go build tells
# nothing before it ends, but with -v the packages that it has compiled.
build() {
  local log=$dir/$2.log started=$SECONDS
  rm -f "$dir/$2" "$dir/$2.made-of"
  go -C "$module" build -v -p 2 -trimpath -ldflags '-s -w' -o "$dir/$2.new" "istio.io/istio/$1" >"$log" 2>&1 &
  local job=$!
  while kill -0 "$job" 2>/dev/null; do
    for _ in $(seq 30); do
      sleep 1
      kill -0 "$job" 2>/dev/null || break
    done
    say "$2: $(grep -vc ' ' "$log" || true) packages compiled in $((SECONDS - started)) s"
  done
  wait "$job" || die "building $2: $(grep -v '^[^ ]*$' "$log" | tail -20)"
  mv "$dir/$2.new" "$dir/$2"
  printf '%s\n' "$made_of" >"$dir/$2.made-of"
}

mkdir -p "$dir"
source=$(go -C "$module" mod download -json "istio.io/istio@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
install -m 644 "$source/tools/packaging/common/envoy_bootstrap.json" "$dir/envoy_bootstrap.json"
for package in "${programs[@]}"; do
  name=${package##*/}
  if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
  if [ -x "$dir/$name" ] && [ "$(cat "$dir/$name.made-of" 2>/dev/null)" = "$made_of" ]; then
    say "$name $version: there"
    continue
  fi
  say "building $name $version into $dir; the first build takes minutes"
  build "$package" "$name"
done
say "ready: $dir"
