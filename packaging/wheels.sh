#!/bin/sh
# wheels.sh DIRECTORY SDIST PYTHON KIND...: wheels of a source archive in DIRECTORY, for CPython 3.11 and newer. PYTHON needs setuptools,
# cffi and wheel. Kinds: "native"; "arm64", with Debian's cross compiler; "musl", where PYTHON is one on musl.
# The wheel's name says which C library it needs at least: the newest of the versions that its symbols name.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd) sdist=$2 python=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# arm64_environment: what setuptools has to know to compile for another machine.
arm64_environment() {
    headers=$here/../build/arm64-headers
    if [ ! -e "$headers/packages" ]; then
        rm -rf "$headers" && mkdir -p "$here/../build"
        sh "$here/../tests/unpack.sh" "$headers" bookworm arm64 libpython3.11-dev
    fi
    mkdir -p "$work/include"
    ln -s "$headers/usr/include/aarch64-linux-gnu" "$work/include/" # its pyconfig.h includes this one
    export CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared" _PYTHON_HOST_PLATFORM=linux-aarch64
    export CFLAGS="-O3 -I$headers/usr/include/python3.11 -I$work/include"
}

for kind; do
    (
        [ "$kind" != arm64 ] || arm64_environment
        "$python" -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w "$work/$kind" "$sdist"
    )
    wheel=$(ls "$work/$kind"/*.whl)
    "$python" -m zipfile -e "$wheel" "$work/$kind/unpacked"
    symbols=$(readelf -VW "$work/$kind"/unpacked/pasta_py/*.so)
    if [ "$kind" = musl ]; then
        library=musllinux_1_2
    else
        library=$(echo "$symbols" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1 | sed 's/GLIBC_/manylinux_/; s/[.]/_/g')
    fi
    machine=${wheel##*linux_}
    "$python" -m wheel tags --remove --platform-tag "${library}_${machine%.whl}" "$wheel"
    mv "$work/$kind"/*.whl "$out/"
done
