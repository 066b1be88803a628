#!/bin/sh
# guest.sh: all that runs in the machine that boot.py boots, as its first process. /dev/vdb is an archive of the project and
# the wheel; the task is on the kernel's command line. The last line says how it went.
set -u
export PATH=/usr/bin:/usr/sbin HOME=/root LC_ALL=C.UTF-8
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t tmpfs none /tmp
chmod 1777 /tmp /dev/shm
mount --make-rshared /
ip link set lo up
hostname machine
cd /work
echo "machine: $(uname -srm), Debian $(cat /etc/debian_version)"
case $(cat /proc/cmdline) in
*task=prepare*)
    # An ordinary user could not write what Python compiles.
    python3 -m compileall -q -j 2 /usr/lib/python3* # fails for files of other versions of Python
    python3 -m venv --system-site-packages --without-pip /opt/venv
    ;;
*)
    net=$(echo /usr/lib/modules/*/kernel/drivers/net)
    insmod "$net/tun.ko.xz" && insmod "$net/veth.ko.xz" && chmod 666 /dev/net/tun &&
        /opt/venv/bin/python3 -m pip install -q --disable-pip-version-check --no-index \
            --no-deps /work/*.whl &&
        sh /work/task.sh
    ;;
esac
echo "machine: status $?"
sync
mount -o remount,ro /
echo o >/proc/sysrq-trigger
sleep 60
