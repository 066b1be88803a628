#!/bin/sh
# within.sh LAYER[:LOWER...] COMMAND...: run COMMAND as root in an overlay of these directories, with the machine's own network.
# What it changes lands in LAYER; the work directory of the overlay is LAYER.work. Mounts end with it.
set -eu
if [ "${PASTA_WITHIN:-}" != yes ]; then
    exec env PASTA_WITHIN=yes unshare -mpf --kill-child sh "$0" "$@"
fi
unset PASTA_WITHIN
layers=$1
shift
top=${layers%%:*}
root=$top.root
mkdir -p "$top" "$top.work" "$root"
mount --make-rprivate /
mount -t overlay -o "lowerdir=${layers#*:},upperdir=$top,workdir=$top.work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
chmod 1777 "$root/tmp"
for file in resolv.conf hosts; do
    [ ! -e "$root/etc/$file" ] || mount --bind "/etc/$file" "$root/etc/$file"
done
# A clean environment, but for where certificates are.
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=xterm \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    chroot "$root" "$@"
