#!/bin/sh
# deb.sh ROOT OUTPUT SDIST: build the Debian packages of a source archive in a Debian root of tests/packages/root.sh, and check
# them with lintian. OUTPUT gets the packages and the source package. As root.
set -eu
root=$(cd "$1" && pwd)
mkdir -p "$2"
output=$(cd "$2" && pwd)
sdist=$(readlink -f "$3")
project=$(cd "$(dirname "$0")/.." && pwd)
upstream=${sdist##*/pasta_py-}
upstream=${upstream%.tar.gz}

rm -rf "$output" && mkdir -p "$output"
top=$output/.layer
mkdir -p "$top/src"
cp "$sdist" "$top/src/pasta-py_$upstream.orig.tar.gz"
tar -C "$top/src" -xzf "$sdist"
cp -r "$project/packaging/debian" "$top/src/pasta_py-$upstream/"
status=0
sh "$project/tests/packages/within.sh" "$top:$root/build:$root/base" sh -ec "
    cd /src/pasta_py-$upstream
    dpkg-buildpackage -us -uc
    cd ..
    lintian --allow-root --display-info --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs *.changes
" >"$output/log" 2>&1 || status=$?
find "$top/src" -maxdepth 1 -type f -exec mv {} "$output/" \;
rm -rf "$top" "$top.work" "$top.root"
[ $status = 0 ] || tail -60 "$output/log" >&2
ls "$output"
exit $status
