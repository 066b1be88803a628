#!/bin/sh
# root.sh DIRECTORY [ahead]: a Debian root with podman and the other runtimes, and this project installed in it as a user would.
# With "ahead" only what is Debian's; another start meanwhile waits for it.
#
# SUITE (trixie) chooses Debian's suite, MIRROR the archive. What is there already is kept, but for our own program. As root.
set -eu
root=$1
suite=${SUITE:-trixie}
here=$(cd "$(dirname "$0")" && pwd)
project=${here%/tests/runtimes}
packages=podman,buildah,passt,slirp4netns,rootlesskit,crun,uidmap,netavark,aardvark-dns,nftables,catatonit,procps,iproute2
packages=$packages,busybox-static,socat,curl,nginx-light,dnsmasq-base,iputils-ping,python3-venv,python3-dev,gcc,libc6-dev,ca-certificates

mkdir -p "${root%/*}"
exec 9>"$root.lock"
flock 9
if [ "$(cat "$root/.packages" 2>/dev/null)" != "$suite $packages" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include="$packages" "$suite" "$root" ${MIRROR:-} >"$root.log" 2>&1 || {
        tail -20 "$root.log" >&2
        exit 1
    }
    echo "user:x:1000:1000::/home/user:/bin/bash" >>"$root/etc/passwd"
    echo "user:x:1000:" >>"$root/etc/group"
    echo "user:100000:65536" | tee "$root/etc/subuid" >"$root/etc/subgid"
    rm -f "$root/etc/resolv.conf"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    cp "$here/image.sh" "$root/"
    chroot "$root" sh /image.sh
    echo "$suite $packages" >"$root/.packages"
fi
exec 9>&-
[ "${2:-}" != ahead ] || exit 0
for file in /etc/pip.conf /root/.config/pip/pip.conf; do
    [ -f "$file" ] && mkdir -p "$root${file%/*}" && cp "$file" "$root$file"
done
cp /etc/resolv.conf /etc/hosts "$root/etc/"

rm -rf "$root/src" "$root/home/user"
mkdir -p "$root/src" "$root/home/user/.config/containers"
cp "$here/containers.conf" "$root/home/user/.config/containers/"
chown -R 1000:1000 "$root/home/user"
(cd "$project" && cp -r contrib csrc docs pasta_py setup.py pyproject.toml README.md LICENSE "$root/src/")
rm -f "$root"/src/pasta_py/*.so "$root"/src/pasta_py/_*.c
# Everything that a pip of this machine is told by its environment counts inside too.
chroot "$root" sh -c '
    [ -x /opt/pasta-py/bin/pip ] || python3 -m venv /opt/pasta-py
    pip="/opt/pasta-py/bin/pip -q --disable-pip-version-check"
    rm -rf /wheel
    $pip wheel --no-deps -w /wheel /src && # compiled once: what the package needs, then the package itself, whatever is there
    $pip install /wheel/*.whl &&
    $pip install --force-reinstall --no-deps /wheel/*.whl'
