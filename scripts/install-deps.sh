#!/bin/sh
# Installs what heed is built with on Debian 12, where it is missing.
set -eu
packages="g++ cmake ninja-build ccache git libtorch-dev libopenblas0-openmp libhwy-dev libcli11-dev nlohmann-json3-dev libfmt-dev zlib1g-dev libpcre2-dev libutf8proc-dev libpng-dev libjpeg62-turbo-dev libhnswlib-dev libgtest-dev"
[ "${1:-}" = --analysis ] && packages="$packages clang-14 libclang-rt-14-dev clang-format-14"
missing=""
for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
run=""
[ "$(id -u)" = 0 ] || run="sudo"
$run apt-get update -q
$run env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
