#!/bin/sh
# peer.sh DIRECTORY: passt as Debian's SUITE (sid) has it now, for the benchmark: DIRECTORY/pasta, with its own libc beside it.
#
# MIRROR is the archive; the machine's own by default. Nothing is installed and no root is needed; apt and patchelf are.
set -eu
directory=$(mkdir -p "$1" && cd "$1" && pwd)
suite=${SUITE:-sid}
for tool in apt-get dpkg-deb patchelf; do
    command -v $tool >/dev/null || { echo "missing: $tool: run this first: sudo apt-get install -y apt dpkg patchelf" >&2; exit 1; }
done
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 '/debian/$')}
keys=/usr/share/keyrings/debian-archive-keyring.gpg

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/deb"
: >"$work/state/status"
echo "deb [signed-by=$keys] $mirror $suite main" >"$work/sources.list"
# Its own lists and state: what the machine installs from stays as it is. sid's release file can be past its date.
cat >"$work/apt.conf" <<CONF
Dir::State "$work/state";
Dir::State::status "$work/state/status";
Dir::Cache "$work/cache";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Sandbox::User "";
CONF
export APT_CONFIG="$work/apt.conf"
apt-get update -q >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
(cd "$work/deb" && apt-get download -q passt libc6 >"$work/log" 2>&1) || { cat "$work/log" >&2; exit 1; }

version=$(dpkg-deb -f "$work"/deb/passt_*.deb Version)
mkdir "$work/root"
for package in "$work"/deb/*.deb; do
    dpkg-deb -x "$package" "$work/root"
done
loader=$(find "$work/root" -name 'ld-linux-*.so.*' -o -name 'ld-linux-*.so' | head -1)
rm -rf "$directory"/*
cp -L "$loader" "$(find "$work/root" -name libc.so.6 | head -1)" "$directory/"
for program in pasta pasta.avx2; do
    [ -e "$work/root/usr/bin/$program" ] || continue
    cp -L "$work/root/usr/bin/$program" "$directory/$program"
    patchelf --set-interpreter "$directory/${loader##*/}" --set-rpath "$directory" "$directory/$program"
done
chmod -R a+rX "$directory"
"$directory/pasta" --version >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
echo "passt $version of $suite: $directory/pasta"
