#!/bin/sh
# Runs the benchmark of the kernels and puts its table between the figure marks of README.md.
set -eu
cd "$(dirname "$0")/.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT
build/heed bench kernels "$@" >"$table"
awk -v table="$table" '
  /<!-- figures: begin -->/ { print; print "```text"; while ((getline line < table) > 0) print line; print "```"; skip = 1; next }
  /<!-- figures: end -->/ { skip = 0 }
  !skip { print }
' README.md >README.md.new
mv README.md.new README.md
