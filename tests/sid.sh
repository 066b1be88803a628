#!/bin/sh
# sid.sh DIRECTORY [PACKAGE[=VERSION]...]: programs of Debian sid in DIRECTORY, with their own loader and libraries.
#
# Nothing is installed and no root is needed; apt, dpkg and patchelf are. Without packages: those of sid.txt. What is there
# already is kept, and two callers wait for each other. A version that the archive no longer has gives way to the present one.
# The programs are found in DIRECTORY/usr and run from there alone; DIRECTORY/packages lists PACKAGE VERSION of all that is there.
# MIRROR is the archive; the machine's own by default.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
directory=$(cd "$1" && pwd)
shift
for tool in apt-get dpkg-deb flock patchelf; do
    command -v $tool >/dev/null || { echo "missing: $tool: run this first: sudo apt-get install -y apt dpkg patchelf util-linux" >&2; exit 1; }
done
[ $# -gt 0 ] || set -- $(sed -n 's/^\([^# ][^ ]*\) \([^ ]*\)$/\1=\2/p' "$here/sid.txt")

exec 9>"$directory.lock"
flock 9
# The paths are in the programs, so a copy of the directory is made anew.
wanted="$directory $*"
[ "$(cat "$directory/wanted" 2>/dev/null)" != "$wanted" ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
quietly() {
    "$@" >"$work/log" 2>&1 9>&- || { cat "$work/log" >&2; exit 1; }
}

root=$work/root
sh "$here/unpack.sh" "$root" sid "$(dpkg --print-architecture)" "$@" 9>&-
rm -rf "$root/usr/share/doc" "$root/usr/share/locale" "$root/usr/share/man" "$root"/usr/lib/*/gconv
find "$root" -type l -lname '/*' | while read -r link; do
    ln -sfn "$directory$(readlink "$link")" "$link"
done

loader=$(find "$root/usr" -name 'ld-linux*.so.[0-9]*' -type f | head -1)
libraries=$(dirname "$loader")
path=$directory${libraries#"$root"}
# libc runs as it is, and patching the loader breaks it. DT_RPATH, unlike DT_RUNPATH, counts for libraries of libraries too.
find "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/libexec" -type f \( -perm /111 -o -name '*.so*' \) \
    ! -name 'ld-linux*' ! -name 'libc.so.*' 2>/dev/null | while read -r file; do
    [ "$(head -c 4 "$file" | tail -c 3)" = ELF ] || continue
    ! patchelf --print-interpreter "$file" >/dev/null 2>&1 || quietly patchelf --set-interpreter "$path/${loader##*/}" "$file"
    patchelf --print-needed "$file" >/dev/null 2>&1 || continue # linked statically
    quietly patchelf --force-rpath --set-rpath "$path:$path/systemd" "$file"
done
chmod -R a+rX "$root"
rm -rf "$directory"
mv "$root" "$directory"
echo "$wanted" >"$directory/wanted"
