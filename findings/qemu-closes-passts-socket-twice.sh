#!/bin/sh
# QEMU closes the descriptor that it has handed to passt twice. The second close may hit a descriptor that another thread has opened.
#
# Seen:     QEMU 11.1.3 (Debian sid 1:11.1.3+ds-1), passt 0.0~git20261002.cba3570-1, Linux 6.18.
# Input:    qemu-system-x86_64 -netdev passt,id=n,path=passt, under strace.
# Expected: of socketpair(...) = [A, B], B is closed once in QEMU.
# Observed: B is closed once by GLib's launcher of programs, which has taken it, and again when passt has ended its start. Meanwhile
#           GLib's own threads make descriptors (eventfd), which get the number B. Where none has it, the close gives EBADF;
#           where one has it at that moment, QEMU closes that one, and what waits for it hangs or fails. -netdev stream is not affected.
#
# Needs apt, dpkg, patchelf, strace, iproute2 and unprivileged user namespaces; fetches about 100 MB. Exit status 0: it is still so.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
sh "$here/../tests/sid.sh" "$work/sid" qemu-system-x86=1:11.1.3+ds-1 passt=0.0~git20261002.cba3570-1
usr=$work/sid/usr
"$usr/bin/qemu-system-x86_64" --version | head -n 1
"$usr/bin/qemu-system-x86_64" --version | grep -q 11.1.3 || { echo "the archive has another version now" >&2; exit 2; }
mkfifo "$work/monitor"
unshare -Urn sh -ec "
    ip link set lo up
    ip link add eth0 type veth peer name eth1
    ip link set eth1 up
    ip link set eth0 up
    ip address add 192.0.2.2/24 dev eth0
    ip route add default via 192.0.2.1
    strace -f -o '$work/trace' -e trace=socketpair,close '$usr/bin/qemu-system-x86_64' -L '$usr/share/qemu' -L '$usr/share/seabios' \\
        -accel tcg -m 64 -S -display none -nodefaults -no-user-config -monitor stdio -device virtio-net-pci,netdev=n,romfile= \\
        -netdev passt,id=n,path='$usr/bin/passt'" <"$work/monitor" >"$work/said" 2>&1 &
exec 3>"$work/monitor"
echo quit >&3
wait $! || { cat "$work/said" >&2; exit 2; }
pair=$(sed -n 's/.*socketpair(AF_UNIX, SOCK_STREAM, 0, \[[0-9]*, \([0-9]*\)\]) = 0/\1/p' "$work/trace" | head -n 1)
sed -n "/socketpair(AF_UNIX, SOCK_STREAM, 0/,\$p" "$work/trace" | grep -E "socketpair|close\\($pair( <|\\) +=)" | head
grep -qE "close\\($pair\\) += -1 EBADF" "$work/trace"
