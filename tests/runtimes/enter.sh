#!/bin/sh
# enter.sh ROOT COMMAND...: in new mount, PID and network namespaces, make ROOT the root, with a machine's usual mounts, and
# the network of a host: eth0, whose other end is in the namespace "remote". User namespaces cannot be made in a chroot.
set -e
root=$1
shift
mount --make-rprivate /
if [ -n "${PASTA_LAYERS:-}" ]; then
    # The first directory takes what is changed (tests/packages/layers.py).
    top=${PASTA_LAYERS%%:*}
    mount -t overlay -o "lowerdir=${PASTA_LAYERS#*:},upperdir=$top,workdir=$top.work" overlay "$root"
else
    mount --bind "$root" "$root"
fi
cd "$root"
mkdir -p .old
pivot_root . .old
mount -t proc proc /proc
mount -t sysfs sys /sys
mount --rbind /.old/dev /dev
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /run/user/1000 /run/lock /run/helpers
chown 1000:1000 /run/user/1000
chmod 700 /run/user/1000
mount -t cgroup2 cgroup2 /sys/fs/cgroup # crun refuses the hybrid layout
umount -l /.old
mount --make-rshared /

ip netns add remote
ip link add eth0 type veth peer name eth0 netns remote
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
for net in "" "-n remote"; do
    ip $net link set lo up
    ip $net link set eth0 up
done
ip address add 192.0.2.1/24 dev eth0
ip address add 2001:db8::1/64 dev eth0 nodad
ip route add default via 192.0.2.2
ip -6 route add default via 2001:db8::2
ip -n remote address add 192.0.2.2/24 dev eth0
ip -n remote address add 2001:db8::2/64 dev eth0 nodad
ip netns exec remote sysctl -qw net.ipv4.ip_unprivileged_port_start=0
echo "nameserver 192.0.2.2" >/etc/resolv.conf
echo ready
exec "$@"
