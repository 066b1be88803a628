#!/bin/sh
# main_job.sh BIN: the main job with the programs in BIN, by an ordinary user, under strace: a file by TCP, a ping, a capture, a
# forwarded port. The worker's filter is in force. The rows of the table of system calls that were used are
# printed last, and fail the script where one of the record (tests/arch/seen) is missing, or a call has no row. As root, in a machine
# of its own: it configures the network. It waits as long as a machine without acceleration needs.
set -eu
bin=$1 here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
mkdir -m 777 "$work/traces" "$work/www"
chmod 755 "$work"
head -c 3000000 /dev/urandom >"$work/www/file"
sum=$(sha256sum <"$work/www/file")

unshare -n sleep infinity &
remote=$!
trap 'kill $remote $(jobs -p) 2>/dev/null' EXIT
until ip link add eth0 type veth peer name eth0 netns $remote 2>/dev/null; do sleep 0.1; done
there() { nsenter -t $remote -n "$@"; }
ip link set lo up
there ip link set lo up
ip addr add 192.0.2.2/24 dev eth0
ip link set eth0 up
ip route add default via 192.0.2.1
there ip addr add 192.0.2.1/24 dev eth0
there ip addr add 192.0.2.10/24 dev eth0 # to the guest, the address of the gateway is the host
there ip link set eth0 up
echo "0 2147483647" >/proc/sys/net/ipv4/ping_group_range
there /usr/bin/python3 -m http.server --directory "$work/www" 80 >/dev/null 2>&1 &
until there curl -s -o /dev/null http://192.0.2.10/file; do sleep 1; done

# pasta_py OPTION... -- COMMAND: traced, as a user.
pasta_py() {
    setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/tmp \
        strace ${TRACE:-} -ff -qq -n -e raw=all -e signal=none -o "$work/traces/t$(date +%s)" "$bin/pasta-py" "$@"
}
[ "$(pasta_py --pcap "$work/traces/out.pcap" -- sh -c 'curl -s http://192.0.2.10/file | sha256sum; ping -c 2 -W 60 192.0.2.10 >/dev/null || echo no answer')" = "$sum" ]
echo "main job: a file and a ping have passed"

pasta_py -t 8080 -- sh -c "cd '$work/www'; /usr/bin/python3 -m http.server 8080 >/dev/null 2>&1 & until [ -e stop ]; do sleep 1; done; kill \$!" &
until [ "$(curl -s http://127.0.0.1:8080/file | sha256sum)" = "$sum" ]; do sleep 1; done
worker=$(pgrep -u 1000 -x pasta-py | while read -r pid; do ! grep -q '^Seccomp:.2' "/proc/$pid/status" || echo "$pid"; done)
grep -E '^(Name|Seccomp|NoNewPrivs|CapEff):' $(printf '/proc/%s/status ' $worker)
touch "$work/www/stop"
wait $!
echo "main job: a forwarded port has been reached"
rm "$work"/traces/*.pcap
python3 "$here/seen.py" "$work/traces"
