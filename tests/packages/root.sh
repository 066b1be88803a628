#!/bin/sh
# root.sh DIRECTORY: a small Debian of SUITE (bookworm, trixie, sid) in DIRECTORY/base, and beside it the layers that tests put
# on it: overlay directories with what building a package takes (`build`), and what installing from PyPI takes (`python`).
#
# What is there already is kept, unless the lists of packages have changed. MIRROR is the archive. As root.
set -eu
mkdir -p "$1"
directory=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
suite=${SUITE:-trixie}
base=ca-certificates,iproute2,procps,curl,busybox-static,man-db,bash-completion,fish,zsh,tmux
python="python3-venv python3-dev gcc libc6-dev pipx"
build="build-essential debhelper dh-python dh-apparmor pybuild-plugin-pyproject python3-all-dev python3-setuptools python3-cffi
    python3-pyroute2 python3-typer python3-pytest python3-pytest-timeout python3-hypothesis lintian autopkgtest apparmor"

exec 9>"$directory.lock"
flock 9
wanted="$suite $base $python $build"
[ "$(cat "$directory/wanted" 2>/dev/null)" != "$wanted" ] || exit 0
rm -rf "$directory"
mkdir -p "$directory"
log=$directory.log
debootstrap --variant=minbase --include="$base" "$suite" "$directory/base" ${MIRROR:-} >"$log" 2>&1 9>&- || {
    tail -20 "$log" >&2
    exit 1
}
cp /etc/ssl/certs/ca-certificates.crt "$directory/base/etc/ssl/certs/"
echo 'Acquire::Check-Valid-Until "false";' >"$directory/base/etc/apt/apt.conf.d/90tests" # sid's release file can be past its date
echo "user:x:1000:1000::/home/user:/bin/bash" >>"$directory/base/etc/passwd"
echo "user:x:1000:" >>"$directory/base/etc/group"
mkdir -p "$directory/base/home/user" "$directory/python" "$directory/build"
chown 1000:1000 "$directory/base/home/user"
rm -f "$directory/base/etc/resolv.conf"
: >"$directory/base/etc/resolv.conf"
install="DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends"
sh "$here/within.sh" "$directory/python:$directory/base" sh -c "apt-get update -q && $install $python" >>"$log" 2>&1 9>&- &&
    { [ "$suite" = bookworm ] ||
        sh "$here/within.sh" "$directory/build:$directory/base" sh -c "apt-get update -q && $install $(echo $build)" >>"$log" 2>&1 9>&-; } || {
    tail -20 "$log" >&2
    exit 1
}
echo "$wanted" >"$directory/wanted"
