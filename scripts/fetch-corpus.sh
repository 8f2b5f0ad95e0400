#!/usr/bin/env bash
# Makes a folder of plain English text from Debian's documentation packages: what heed's byte language models are trained
# on. Nothing is installed and no root is needed; running it again with the packages at hand downloads nothing.
#
#   scripts/fetch-corpus.sh FOLDER            the text goes to FOLDER, the packages are kept in FOLDER/.packages
#
# HEED_CORPUS_PACKAGES    other packages than the default ones (their man pages, English HTML and text are taken)
# HEED_CORPUS_CAP         most bytes kept of each dictionary (gcide, wordnet), default 10000000; parts are taken evenly from A to Z
set -euo pipefail

if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
for tool in apt-get dpkg perl gzip sha256sum; do
  command -v "$tool" >/dev/null || { echo "fetch-corpus: '$tool' is needed and not there" >&2; exit 1; }
done

scripts=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/.packages"
out=$(cd "$1" && pwd)
packages=${HEED_CORPUS_PACKAGES:-debian-reference-en debian-handbook debian-policy developers-reference manpages manpages-dev dict-gcide wordnet-base fortunes jargon-text}
cap=${HEED_CORPUS_CAP:-10000000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# One name per package, so that an old version is not unpacked beside a new one.
for package in $packages; do
  if ! ls "$out/.packages/${package}"_*.deb >/dev/null 2>&1; then
    (cd "$out/.packages" && apt-get download -q "$package" >"$work/log" 2>&1) || {
      echo "fetch-corpus: cannot download '$package' (try: apt-get update): $(grep '^E:' "$work/log" | head -1)" >&2
      exit 1
    }
  fi
  mkdir "$work/$package"
  dpkg -x "$(ls -t "$out/.packages/${package}"_*.deb | head -1)" "$work/$package"
done
[ ! -d /usr/share/common-licenses ] || cp -rL /usr/share/common-licenses "$work/licenses"

find "$out" -maxdepth 1 -name '*.txt' -delete
perl "$scripts/corpus_text.pl" "$work" "$out" "$cap"

# Equal texts (a license under two names, a page in two packages) would be learnt by heart.
(cd "$out" && sha256sum -- *.txt | sort | awk 'seen[$1]++ { print $2 }' | xargs -r rm --)

echo "texts of each source, files and bytes:"
(cd "$out" && for file in *.txt; do echo "${file%%.*} $(wc -c <"$file")"; done) |
  awk '{ n[$1]++; b[$1] += $2; all += $2; files++ }
       END { for (s in n) printf "  %-24s %6d %10d\n", s, n[s], b[s] | "sort"; close("sort"); printf "  %-24s %6d %10d\n", "all", files, all }'
