#!/bin/sh
# fetch.sh DIRECTORY: Debian's unbound, named, dnssec-signzone and Go in DIRECTORY, with the libraries that the machine lacks.
# Nothing is installed, so no server starts. What is there is kept.
set -eu
directory=$1
[ -e "$directory/done" ] && exit
mkdir -p "$directory/packages"
cd "$directory/packages"
needed=$(apt-get install -s -y --no-install-recommends unbound bind9 bind9-utils golang-go | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
# shellcheck disable=SC2086
apt-get download -q $needed
for package in *.deb; do
    dpkg-deb -x "$package" ..
done
rm -- *.deb
touch ../done
