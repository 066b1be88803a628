#!/bin/sh
# musl.sh DIRECTORY PIP: a Python on musl, in DIRECTORY/python, and the compiler for its extensions, DIRECTORY/cc. Takes five minutes.
# It has the packages that building and testing need: PIP, a pip of this machine, downloads them from PyPI.
#
# Debian has musl, but no Python on it: this one is compiled from Debian's sources of Python, libffi and zlib. Nothing is installed and
# no root is needed. What is there already is kept. The paths are in the programs: a copy elsewhere is made anew.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
directory=$(cd "$1" && pwd) pip=$2
suite=trixie
machine=$(uname -m)-linux-musl

for tool in autoreconf libtoolize gcc make /usr/share/aclocal/ltdl.m4; do
    command -v $tool >/dev/null || [ -e $tool ] || { echo "missing: $tool: sudo apt-get install -y autoconf automake libtool libltdl-dev gcc make" >&2; exit 1; }
done
exec 9>"$directory.lock"
flock 9
wanted="$directory $suite $(cksum <"$0")"
[ "$(cat "$directory/wanted" 2>/dev/null)" != "$wanted" ] || exit 0
rm -rf "$directory"
mkdir "$directory"
log=$directory/log
quietly() {
    "$@" >>"$log" 2>&1 9>&- || { tail -30 "$log" >&2; exit 1; }
}

sh "$here/../unpack.sh" "$directory/debian" $suite "$(dpkg --print-architecture)" musl-dev musl-tools linux-libc-dev \
    src:python3.13 src:libffi src:zlib 9>&-
usr=$directory/debian/usr
# The kernel's headers, and none of the other C library.
for name in linux asm-generic; do
    ln -s "../$name" "$usr/include/$machine/"
done
ln -s "../$(uname -m)-linux-gnu/asm" "$usr/include/$machine/"
loader=$(find "$usr/lib" -name 'ld-musl-*.so.1')
sed -i -e "s|/usr/|$usr/|g" -e "s|-dynamic-linker [^ ]*|-dynamic-linker $loader|" "$usr/lib/$machine/musl-gcc.specs"
cat >"$directory/cc" <<CC
#!/bin/sh
[ "\$*" != --print-multiarch ] || { echo $machine; exit; } # Python's configure compares it
exec \${REALGCC:-gcc} "\$@" -specs $usr/lib/$machine/musl-gcc.specs
CC
chmod +x "$directory/cc"

cd "$directory"
for each in debian/src/*.orig.tar.*; do
    case $each in *.asc) ;; *) tar -xf "$each" ;; esac
done
export CC="$directory/cc" CFLAGS="-O2 -fPIC -I$directory/libraries/include" LDFLAGS="-L$directory/libraries/lib"
(cd zlib-*/ && quietly ./configure --prefix="$directory/libraries" --static && quietly make -j2 install)
(cd libffi-*/ && quietly autoreconf -fi && quietly ./configure --prefix="$directory/libraries" --libdir="$directory/libraries/lib" --disable-shared --disable-docs \
    --build="$machine" && quietly make -j2 install)
export CFLAGS="-O2 -I$directory/libraries/include"
(cd Python-*/ && PKG_CONFIG_LIBDIR=$directory/libraries/lib/pkgconfig quietly ./configure --prefix="$directory/python" --build="$machine" \
    --disable-test-modules --without-doc-strings &&
    quietly nice make -j2 && quietly make install)
rm -rf zlib-*/ libffi-*/ Python-*/ debian/src

# This Python has no TLS, so it cannot download.
packages="cffi>=1.16 pyroute2>=0.7.12 typer>=0.12 setuptools>=77 wheel dnspython hypothesis jsonschema pytest pytest-timeout"
python=$directory/python/bin/python3
# shellcheck disable=SC2086
quietly "$pip" download --disable-pip-version-check -d "$directory/wheels" --only-binary=:all: --python-version 313 \
    --platform "musllinux_1_2_$(uname -m)" --platform "musllinux_1_1_$(uname -m)" $packages
# shellcheck disable=SC2086
quietly "$python" -m pip install --disable-pip-version-check --no-index --find-links "$directory/wheels" $packages
"$python" -c 'import ctypes, sys, sysconfig, zlib; print(sys.version, sysconfig.get_config_var("SOABI"))'
echo "$wanted" >"$directory/wanted"
